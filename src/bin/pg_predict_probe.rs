//! The probe program: tries one model and says what it found.
//!
//! The request and all that belongs to it come on standard input, the answer goes to standard output as JSON. Whoever
//! starts it sets its limits and its time; it sets none itself and talks to nobody else.

use std::io::Write;

use pg_predict_engine::probe::{Answer, read, run};
use pg_predict_engine::threads::run_with_less_stack;

fn main() -> std::process::ExitCode {
    let (request, content) = match read(&mut std::io::stdin().lock()) {
        Ok(read) => read,
        Err(e) => {
            eprintln!("cannot read the model: {e} (this program is started by predict.create_model)");
            return std::process::ExitCode::from(2);
        }
    };
    // What passes here is loaded by a server's thread, whose stack is larger.
    let Ok(Some(answer)) = run_with_less_stack(move || -> Answer { run(&request, content) }) else {
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
