//! Observes the shapes of the values inside a model while it runs, to find operators that mix rows.

use std::cell::{Cell, OnceCell};
use std::sync::Arc;

use crate::batch::Batch;
use crate::onnx::content::Content;
use crate::ort::environment::Config;
use crate::ort::session::Session;
use crate::ort::stop::Stop;
use crate::ort::values::RawOutput;
use crate::run::RunContext;
use crate::signature::Source;
use crate::tensor::Column;
use crate::validation::dependence::{Observed, ObservedShapes, Operators};
use crate::validation::trial::Trial;
use crate::version::Version;

/// The largest model, in bytes, that is loaded a second time to observe its operators.
pub(crate) const LARGEST_OBSERVED: usize = 512 << 20;

/// The batch sizes of the two observed runs.
const OBSERVED_ROWS: [usize; 2] = [3, 6];

/// A copy of the model with the shapes of its values as outputs, loaded when it is first needed.
pub(crate) struct Observer {
    pub(crate) content: Cell<Option<Content>>,
    pub(crate) session: OnceCell<Option<Arc<Session>>>,
    pub(crate) observed: Vec<Observed>,
    pub(crate) config: Config,
}

impl Observer {
    pub(crate) fn mixing(&self, operators: &Operators, trial: &Trial<'_>, version: &Arc<Version>) -> Option<String> {
        let load =
            || self.content.take().and_then(|c| Session::load(c, &version.options, &self.config).ok().map(Arc::new));
        let run = || {
            let session = Arc::clone(self.session.get_or_init(load).as_ref()?);
            let work = RunContext::new(session, Arc::clone(version), Arc::new([])).ok()?;
            let [small, large] = OBSERVED_ROWS.map(|rows| self.seen(&work, &trial.rows(rows, 0, None), rows));
            Some((small?, large?))
        };
        let Some((small, large)) = run() else { return operators.unobserved() };
        let inputs = version.signature.inputs.iter().filter(|i| i.source != Source::Constant && i.axis.is_some());
        operators.mixing(&inputs.map(|i| i.name.as_str()).collect::<Vec<_>>(), &small, &large)
    }

    pub(crate) fn seen(&self, work: &RunContext, batch: &Batch, rows: usize) -> Option<ObservedShapes> {
        let mut seen = ObservedShapes { rows, ..ObservedShapes::default() };
        for (observed, got) in self.observed.iter().zip(work.raw(batch, &Stop::new().ok()?).ok()?) {
            let RawOutput::Tensor { data, .. } = got else { return None };
            let numbers: Vec<i64> = match data {
                Column::Int64(v) => v,
                Column::Int32(v) => v.into_iter().map(i64::from).collect(),
                _ => return None,
            };
            match observed {
                Observed::Shape(name) => drop(seen.shapes.insert(name.clone(), numbers)),
                Observed::Axis(name) => drop(seen.axes.insert(name.clone(), *numbers.first()?)),
            }
        }
        Some(seen)
    }
}
