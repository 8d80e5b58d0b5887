//! Formats numbers and timestamps for readers of the report.
//!
//! Rounding follows PostgreSQL's numeric: half away from zero, applied to the number as written with 15 digits.

/// Formats a number with this number of decimals.
pub(super) fn fixed(x: f64, decimals: usize) -> String {
    // A tie without an exact binary form must round as its decimal form does.
    let text = format!("{:.decimals$}", x * (1.0 + 4.0 * f64::EPSILON));
    // Never write a negative zero.
    if text.starts_with('-') && !text.contains(|c: char| c.is_ascii_digit() && c != '0') {
        text.trim_start_matches('-').to_owned()
    } else {
        text
    }
}

/// Formats a number with at most this number of decimals.
pub(super) fn trimmed(x: f64, decimals: usize) -> String {
    let text = fixed(x, decimals);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Formats a number in scientific notation, with this number of decimals and an exponent of at least two digits.
fn with_exponent(x: f64, decimals: usize) -> String {
    let text = format!("{x:.decimals$e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
    format!("{mantissa}e{sign}{digits:0>2}")
}

/// Formats a whole number with commas between thousands.
fn with_commas(x: f64) -> String {
    let digits = format!("{:.0}", x.abs());
    let mut out = String::from(if x < 0.0 { "-" } else { "" });
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Formats a number for a reader: whole from 1,000 on, otherwise with three significant digits.
pub(super) fn figure(x: f64) -> String {
    let size = x.abs();
    if x.is_nan() {
        "NaN".to_owned()
    } else if x.is_infinite() {
        (if x > 0.0 { "Infinity" } else { "-Infinity" }).to_owned()
    } else if x == 0.0 {
        "0".to_owned()
    } else if !(1e-4..1e15).contains(&size) {
        with_exponent(x, 2)
    } else if size >= 1000.0 || x == x.trunc() {
        with_commas(x.round_ties_even())
    } else {
        fixed(x, [100.0, 10.0, 1.0, 0.1, 0.01, 0.001].iter().filter(|bound| size < **bound).count())
    }
}

/// Formats a number for an axis, as short as possible.
pub(super) fn tick(x: f64) -> String {
    let size = x.abs();
    if x == 0.0 {
        "0".to_owned()
    } else if !(1e-4..1e12).contains(&size) {
        with_exponent(x, 2)
    } else if size >= 1e9 {
        trimmed(x / 1e9, 2) + "G"
    } else if size >= 1e6 {
        trimmed(x / 1e6, 2) + "M"
    } else if size >= 1e4 || size >= 1000.0 && x % 500.0 == 0.0 {
        // 5000 becomes 5k. 1024 stays, because it may be a number of rows.
        trimmed(x / 1e3, 1) + "k"
    } else {
        trimmed(x, 4)
    }
}

/// Formats a duration in microseconds.
pub(super) fn duration(micros: f64) -> String {
    match micros {
        t if t < 1.0 => figure(t * 1e3) + " ns",
        t if t < 1e3 => figure(t) + " \u{b5}s",
        t if t < 1e6 => figure(t / 1e3) + " ms",
        t if t < 120e6 => figure(t / 1e6) + " s",
        t if t < 7200e6 => figure((t / 60e6).round_ties_even()) + " min",
        t => figure((t / 3600e6).round_ties_even()) + " h",
    }
}

/// Formats a share of 1 as a percentage.
pub(super) fn percent(share: f64) -> String {
    if share > 0.0 && share < 0.0001 {
        return "< 0.01 %".to_owned();
    }
    trimmed(share * 100.0, if share < 0.1 { 2 } else { 1 }) + " %"
}

/// Splits a timestamp of JSON into the date, the time to the second and the offset from UTC. None if it is infinite.
pub(super) fn moment(text: &str) -> Option<(&str, &str, &str)> {
    let (date, rest) = text.split_once('T')?;
    let (time, rest) = rest.split_at_checked(8)?;
    let offset = rest.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    Some((date, time, offset))
}
