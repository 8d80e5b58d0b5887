//! The bytes that a session is created from.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use ort::operator::OperatorDomain;
use ort::session::SessionInputValue;
use ort::session::builder::SessionBuilder;
use ort::value::TensorRef;

use crate::device::Device;
use crate::error::Result;
use crate::onnx::broadcasts::widened;
use crate::onnx::categories::{self, Categories};
use crate::options::{Options, Trees};
use crate::ort::denormals::without_denormals;
use crate::ort::environment::{Config, load_error, prepare};
use crate::ort::session::Session;
use crate::ort::tree_operator::{self, Ensembles};
use crate::ort::weights::{SharedBytes, in_place, with_external};
use crate::trees::folding::{LeafModel, folded};
use crate::trees::kernels::Kernel;
use crate::trees::rewriting::{self, Rewritten};

/// The source of a session's bytes.
pub(crate) enum Origin<'a> {
    Memory(&'a [u8], Vec<(String, SharedBytes)>),
    File(&'a Path),
    /// A model whose tree ensembles are replaced, and the operators that replace them.
    Trees(&'a [u8], Vec<(String, SharedBytes)>, Arc<OperatorDomain>),
}

/// A session of ONNX Runtime, and how its model was rewritten.
pub(crate) struct Opened {
    pub(crate) inner: ort::session::Session,
    /// ONNX Runtime's message, if the device `auto` fell back to the CPU.
    pub(crate) fallback: Option<String>,
    pub(crate) categories: Vec<Categories>,
    /// The number of tree ensembles that are compiled.
    pub(crate) trees: usize,
}

/// The largest model file that is rewritten, in bytes. Larger models do not predict from tables and are loaded
/// unchanged.
const LARGEST_TABLE_MODEL: u64 = 256 << 20;

impl Origin<'_> {
    /// Returns the model file, or `None` if it is too large to be rewritten or cannot be read.
    pub(crate) fn model(&self) -> Option<Cow<'_, [u8]>> {
        match self {
            Self::Memory(model, _) | Self::Trees(model, ..) => Some(Cow::Borrowed(model)),
            Self::File(path) => {
                let size = std::fs::metadata(path).ok()?.len();
                (size <= LARGEST_TABLE_MODEL).then(|| std::fs::read(path).ok())?.map(Cow::Owned)
            }
        }
    }

    /// Returns the files of weights that are given with the model.
    pub(crate) fn external(&self) -> &[(String, SharedBytes)] {
        match self {
            Self::Memory(_, external) | Self::Trees(_, external, _) => external,
            Self::File(_) => &[],
        }
    }

    /// Returns the model rewritten to take category numbers for the text inputs that it only looks up, and the
    /// categories. Returns `None` if there is no such input or the model cannot be rewritten.
    pub(crate) fn by_number(&self, model: &[u8]) -> Option<(Vec<u8>, Vec<Categories>)> {
        self.external().is_empty().then(|| categories::rewritten(model))?
    }

    /// Creates the session from the model rewritten as far as ONNX Runtime accepts it.
    pub(crate) fn open(&self, options: &Options, config: &Config) -> Result<Opened> {
        let model = self.model();
        let (model, categories) = match model.as_ref().and_then(|model| self.by_number(model)) {
            Some((model, categories)) => (Some(Cow::Owned(model)), categories),
            None => (model, Vec::new()),
        };
        let compiled = match model.as_deref().filter(|_| options.trees == Trees::Compiled) {
            // A rewritten model has no file, so it cannot have weights in files beside it.
            Some(model) => {
                let beside = || matches!(self, Self::File(_)) && rewriting::names_files(model);
                rewriting::rewritten(model)?.filter(|_| !beside())
            }
            None => None,
        };
        if let Some(rewritten) = compiled {
            let trees = rewritten.ensembles.len();
            if let Ok((inner, fallback)) = with_trees(rewritten, self.external(), Kernel::chosen(), config) {
                return Ok(Opened { inner, fallback, categories, trees });
            }
        }
        if let Some(model) = model.filter(|_| !categories.is_empty())
            && let Ok((inner, fallback)) = Session::open(&Origin::Memory(&model, Vec::new()), config)
        {
            return Ok(Opened { inner, fallback, categories, trees: 0 });
        }
        let (inner, fallback) = Session::open(self, config)?;
        Ok(Opened { inner, fallback, categories: Vec::new(), trees: 0 })
    }

    /// Adds the weights to the builder and creates the session. `on_cpu`: whether it runs on the CPU alone.
    pub(crate) fn commit(&self, builder: SessionBuilder, on_cpu: bool) -> Result<ort::Result<ort::session::Session>> {
        let (model, builder) = match self {
            Self::File(path) => {
                let mut builder = builder;
                return Ok(builder.commit_from_file(path));
            }
            Self::Memory(model, _) => (model, builder),
            Self::Trees(model, _, operators) => {
                let builder = builder.with_operators(Arc::clone(operators));
                (model, builder.map_err(|e| load_error(e.message().to_owned()))?)
            }
        };
        // A device copies weights into its own memory.
        let builder = if on_cpu { in_place(builder, model, self.external())? } else { builder };
        Ok(with_external(builder, self.external())?.commit_from_memory(model))
    }
}

/// Creates a session whose tree ensembles run on a kernel, folded if they can be. Also returns ONNX Runtime's message if
/// the device `auto` fell back to the CPU.
pub(crate) fn with_trees(
    rewritten: Rewritten,
    external: &[(String, SharedBytes)],
    kernel: Kernel,
    config: &Config,
) -> Result<(ort::session::Session, Option<String>)> {
    prepare(config)?;
    let folded = folded(&rewritten, |leaves| computed(leaves, config).ok());
    let open = |Rewritten { model, ensembles }: Rewritten| {
        let model = widened(&model, rewriting::DOMAIN).unwrap_or(model);
        let ensembles = Ensembles::new(ensembles, kernel);
        let origin = Origin::Trees(&model, external.to_vec(), tree_operator::domain(&ensembles)?);
        let opened = Session::open(&origin, config);
        ensembles.release();
        opened
    };
    folded.and_then(|folded| open(folded).ok()).map_or_else(|| open(rewritten), Ok)
}

/// Runs a model of operators for the leaves of trees, and returns its outputs.
pub(crate) fn computed(leaves: &LeafModel, config: &Config) -> Result<Vec<Vec<f32>>> {
    let config = Config { device: Device::Cpu, threads: 1, ..config.clone() };
    let (mut session, _) = Session::open(&Origin::Memory(&leaves.model, Vec::new()), &config)?;
    let failed = |e: ort::Error| load_error(e.message().to_owned());
    let mut inputs: Vec<(&str, SessionInputValue<'_>)> = Vec::new();
    for (name, values) in &leaves.inputs {
        let column = TensorRef::from_array_view(([values.len(), 1], values.as_slice())).map_err(failed)?;
        inputs.push((name, column.into()));
    }
    without_denormals(|| {
        let outputs = session.run(inputs).map_err(failed)?;
        outputs.iter().map(|(_, value)| Ok(value.try_extract_tensor::<f32>().map_err(failed)?.1.to_vec())).collect()
    })
}
