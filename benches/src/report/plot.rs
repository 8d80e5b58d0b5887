//! The plots, as SVG: by batch size, by rows, and the peers. They have no background and a grey that reads on white and on
//! black.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::figures::Timing;
use crate::measurements::scale::ScalePoint;
use crate::report::page::{ns, thousands};
use crate::report::results::{Results, WorkloadResults};
use crate::statements::contender::Kind;

const GREY: RGBColor = RGBColor(0x82, 0x88, 0x90);
const COLORS: [RGBColor; 5] = [
    RGBColor(0x3b, 0x82, 0xc4),
    RGBColor(0xd9, 0x7f, 0x26),
    RGBColor(0x3a, 0x9d, 0x5d),
    RGBColor(0xc9, 0x50, 0x5c),
    RGBColor(0x8e, 0x6b, 0xbf),
];
/// The width of every plot, and of the legend beside its lines.
const WIDTH: u32 = 860;
const LEGEND: u32 = 170;
const FONT: &str = "sans-serif";
/// Bars end at so many times ours; their number tells.
const CLIPPED: f64 = 8.0;
/// The height of a bar with the room around it, and of what a panel has beside its bars.
const BAR: u32 = 22;
const PANEL: u32 = 80;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Writes every plot for which there are figures.
pub fn write(results: &Results, folder: &Path) -> Result<()> {
    if results.workloads.iter().any(|workload| !workload.sweep.is_empty()) {
        by_batch_size(results, &folder.join("batch_size.svg"))?;
    }
    if let Some(scale) = &results.scale {
        by_rows(&scale.points, &folder.join("rows.svg"))?;
    }
    if results.peers.is_some() {
        peers(results, &folder.join("peers.svg"))?;
    }
    Ok(())
}

/// Text in grey of a size.
fn text(size: u32) -> TextStyle<'static> {
    (FONT, size).into_font().color(&GREY)
}

/// What goes wrong while drawing, with no thread bound to it.
fn drawn<T, E: std::fmt::Display>(result: Result<T, E>) -> Result<T> {
    result.map_err(|error| anyhow!("could not draw: {error}"))
}

/// One line of a plot.
struct Line {
    name: String,
    color: RGBColor,
    dashed: bool,
    points: Vec<(f64, f64)>,
    /// A point beside the line.
    lone: Option<(f64, f64)>,
}

/// Lines over a logarithm to the base 2 or 10 of x, which is labelled by a function, and over a logarithmic y.
fn lines(file: &Path, title: &str, axes: [&str; 2], label: &dyn Fn(f64) -> String, lines: &[Line]) -> Result<()> {
    let all = || lines.iter().flat_map(|line| line.points.iter().chain(&line.lone));
    let most_x = all().map(|point| point.0).fold(0.0, f64::max);
    let least_x = all().map(|point| point.0).fold(f64::INFINITY, f64::min);
    let low = 10_f64.powf(all().map(|point| point.1).fold(f64::INFINITY, f64::min).log10().floor());
    let high = 10_f64.powf(all().map(|point| point.1).fold(0.0, f64::max).log10().ceil());
    let root = SVGBackend::new(file, (WIDTH, 440)).into_drawing_area();
    let (left, right) = root.split_horizontally(WIDTH - LEGEND);
    let mut builder = ChartBuilder::on(&left);
    builder.caption(title, text(17)).margin(12).margin_right(30).x_label_area_size(44).y_label_area_size(64);
    let mut chart = drawn(builder.build_cartesian_2d(least_x..most_x, (low..high).log_scale()))?;
    let mesh = chart
        .configure_mesh()
        .x_desc(axes[0])
        .y_desc(axes[1])
        .axis_style(GREY)
        .bold_line_style(GREY.mix(0.3))
        .light_line_style(TRANSPARENT)
        .label_style(text(12))
        .axis_desc_style(text(13))
        .x_labels(12)
        .x_label_formatter(&|x| label(*x))
        .y_label_formatter(&|y| if *y < 1.0 { y.to_string() } else { thousands(*y as u64) })
        .draw();
    drawn(mesh)?;
    for (place, line) in lines.iter().enumerate() {
        let style = line.color.stroke_width(2);
        let points = line.points.iter().copied();
        let y = 50 + place as i32 * 20;
        if line.dashed {
            drawn(chart.draw_series(DashedLineSeries::new(points, 6, 5, style)))?;
            for x in [0, 9, 18] {
                drawn(right.draw(&PathElement::new([(x, y), (x + 5, y)], style)))?;
            }
        } else {
            let dots = line.points.iter().chain(&line.lone).map(|point| Circle::new(*point, 3, line.color.filled()));
            drawn(chart.draw_series(dots))?;
            drawn(chart.draw_series(LineSeries::new(points, style)))?;
            drawn(right.draw(&PathElement::new([(0, y), (23, y)], style)))?;
        }
        drawn(right.draw(&Text::new(line.name.clone(), (30, y - 6), text(12))))?;
    }
    drawn(root.present())
}

/// ns per row by batch size; what the version measured for itself stands at the end.
fn by_batch_size(results: &Results, file: &Path) -> Result<()> {
    const LAST: f64 = 16.0;
    const OWN: f64 = 18.0;
    let mut all = Vec::new();
    for (workload, color) in results.workloads.iter().zip(COLORS) {
        let place = |at: usize| if at == 0 { OWN } else { (at as f64).log2() };
        let mut ours: Vec<_> = workload.sweep.iter().map(|point| (place(point.at), point.ns_per_row)).collect();
        ours.sort_by(|a, b| a.0.total_cmp(&b.0));
        let own = ours.pop_if(|point| point.0 == OWN);
        let raw = workload.raw_sweep.iter().map(|point| (place(point.at), point.ns_per_row)).collect();
        all.push(Line { name: workload.name.to_owned(), color, dashed: false, points: ours, lone: own });
        all.push(Line { name: format!("{}, raw", workload.name), color, dashed: true, points: raw, lone: None });
    }
    let label = |x: f64| match x {
        x if x.fract() != 0.0 || x % 2.0 != 0.0 => String::new(),
        x if x > LAST => "0: own".to_owned(),
        x => thousands(x.exp2() as u64),
    };
    let axes = ["pg_predict.batch_size, rows", "ns per row"];
    lines(file, "predict_batch and raw ONNX Runtime (dashed) by batch size", axes, &label, &all)
}

/// Milliseconds by the number of rows.
fn by_rows(points: &[ScalePoint], file: &Path) -> Result<()> {
    let of = |name: &str, color, dashed, form: &dyn Fn(&ScalePoint) -> f64| Line {
        name: name.to_owned(),
        color,
        dashed,
        points: points.iter().map(|point| ((point.rows as f64).log10(), form(point))).collect(),
        lone: None,
    };
    let all = [
        of("predict_batch, columns", COLORS[0], false, &|point| point.batch.median),
        of("sum(predict(columns))", COLORS[1], false, &|point| point.plain.median),
        of("scan", GREY, true, &|point| point.scan.median),
    ];
    let label = |x: f64| if x.fract() == 0.0 { thousands(10_f64.powf(x).round() as u64) } else { String::new() };
    lines(file, "The linear model by the number of rows", ["rows", "milliseconds"], &label, &all)
}

/// Ours and the peers of every workload: scored, and written back.
fn peers(results: &Results, file: &Path) -> Result<()> {
    let mut panels = Vec::new();
    for workload in &results.workloads {
        for (task, own, doing) in
            [("score", "plain", "score and aggregate"), ("write", "plain_ctas", "score and write back")]
        {
            let bars = bars(workload, task, own);
            if bars.len() > 1 {
                panels.push((format!("{}: {doing}", workload.name), bars));
            }
        }
    }
    let heights: Vec<u32> = panels.iter().map(|(_, bars)| bars.len() as u32 * BAR + PANEL).collect();
    let root = SVGBackend::new(file, (WIDTH, heights.iter().sum::<u32>().max(1))).into_drawing_area();
    let mut rest = root.clone();
    for ((title, bars), height) in panels.iter().zip(heights) {
        let (panel, below) = rest.split_vertically(height);
        rest = below;
        draw_bars(&panel, title, bars)?;
    }
    drawn(root.present())
}

/// The bars of one panel, ours first: name, ns per row, whether it is ours.
fn bars(workload: &WorkloadResults, task: &str, own: &str) -> Vec<(String, f64, bool)> {
    let mut bars: Vec<_> =
        workload.timing(own).map(|timing| ("pg_predict".to_owned(), timing.median, true)).into_iter().collect();
    let asked = |timing: &&Timing| {
        timing.kind == Kind::Peer && timing.job.as_ref().is_some_and(|job| job.task == task && job.threads == 1)
    };
    let mut others: Vec<&Timing> = workload.contenders.iter().filter(asked).collect();
    others.sort_by(|a, b| a.median.total_cmp(&b.median));
    let named = |timing: &Timing| {
        let title = timing.title.trim_end_matches(", written back").to_owned();
        (title, timing.median, false)
    };
    bars.extend(others.into_iter().map(named));
    bars
}

/// Draws one panel of horizontal bars.
fn draw_bars(area: &Area, title: &str, bars: &[(String, f64, bool)]) -> Result<()> {
    let most = bars.iter().map(|bar| bar.1).fold(0.0, f64::max).min(bars[0].1 * CLIPPED);
    let count = bars.len() as i32;
    let mut builder = ChartBuilder::on(area);
    builder.caption(title, text(15)).margin(6).margin_right(30).x_label_area_size(36).y_label_area_size(300);
    // The first bar is the highest.
    let mut chart = drawn(builder.build_cartesian_2d(0.0..most * 1.12, (0..count - 1).into_segmented()))?;
    let name = |place: &SegmentValue<i32>| match place {
        SegmentValue::CenterOf(place) => {
            bars.get((count - 1 - place) as usize).map_or_else(String::new, |bar| bar.0.clone())
        }
        _ => String::new(),
    };
    let mesh = chart
        .configure_mesh()
        .disable_y_mesh()
        .x_desc("ns per row")
        .axis_style(GREY)
        .bold_line_style(GREY.mix(0.3))
        .light_line_style(TRANSPARENT)
        .label_style(text(12))
        .axis_desc_style(text(12))
        .x_labels(6)
        .y_labels(bars.len())
        .x_label_formatter(&|x| thousands(*x as u64))
        .y_label_formatter(&name)
        .draw();
    drawn(mesh)?;
    for (place, (_, value, ours)) in bars.iter().enumerate() {
        let from_below = count - 1 - place as i32;
        let color = if *ours { COLORS[0] } else { GREY };
        let ends = [(0.0, SegmentValue::Exact(from_below)), (value.min(most), SegmentValue::Exact(from_below + 1))];
        let mut bar = Rectangle::new(ends, color.mix(if *ours { 1.0 } else { 0.6 }).filled());
        bar.set_margin(3, 3, 0, 0);
        drawn(chart.draw_series(std::iter::once(bar)))?;
        let label = if *value > most { format!("{} →", ns(*value)) } else { ns(*value) };
        let at = (value.min(most), SegmentValue::CenterOf(from_below));
        let number = EmptyElement::at(at) + Text::new(label, (5, -6), text(12));
        drawn(chart.draw_series(std::iter::once(number)))?;
    }
    Ok(())
}
