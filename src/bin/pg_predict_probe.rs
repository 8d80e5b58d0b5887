//! The probe program: tries one model and says what it found.
//!
//! The model's bytes come on standard input, the request as JSON in the first argument, the answer goes to standard
//! output as JSON. Whoever starts it sets its limits and its time; it sets none itself and talks to nobody else.

use std::io::{Read, Write};

use pg_predict_engine::probe::{Answer, Request, run};
use pg_predict_engine::threads::run_with_less_stack;

fn main() -> std::process::ExitCode {
    let Some(request) = std::env::args().nth(1).and_then(|a| serde_json::from_str::<Request>(&a).ok()) else {
        eprintln!("usage: pg_predict_probe REQUEST < MODEL (it is started by predict.create_model)");
        return std::process::ExitCode::from(2);
    };
    let mut bytes = Vec::new();
    if let Err(e) = std::io::stdin().read_to_end(&mut bytes) {
        eprintln!("cannot read the model: {e}");
        return std::process::ExitCode::from(2);
    }
    // What passes here is loaded by a server's thread, whose stack is larger.
    let Ok(Some(answer)) = run_with_less_stack(move || -> Answer { run(&bytes, &request) }) else {
        eprintln!("the trial ended without an answer");
        return std::process::ExitCode::from(2);
    };
    let written = serde_json::to_vec(&answer).map_err(std::io::Error::from).and_then(|json| {
        let mut out = std::io::stdout().lock();
        out.write_all(&json)?;
        out.flush()
    });
    match written {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("cannot answer: {e}");
            std::process::ExitCode::from(2)
        }
    }
}
