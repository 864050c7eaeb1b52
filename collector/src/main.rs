//! The collector's program: reads the command line, reports errors, sets the
//! exit code.

#![forbid(unsafe_code)]

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use collector::cli::{self, Cli};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(cli::run(cli)),
        Err(error) => Err(cli::CliError::failed(&error)),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            // Nobody is left to be told when stderr is closed.
            drop(writeln!(std::io::stderr(), "error: {error}"));
            error.exit_code()
        }
    }
}
