//! `collector restore`: the one verb beside `serve` that opens a folder.

use std::path::PathBuf;

use super::CliError;
use super::output::{self, with_spinner};
use crate::backup;

/// Flags of `restore`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  collector restore tepui-data-backups/before-upgrade --data ./restored
  collector serve --data ./restored

The backup stays as it is and shares nothing with the new folder.")]
pub struct Args {
    /// Folder that `collector backup` printed
    #[arg(value_name = "BACKUP")]
    backup: PathBuf,
    /// Folder to make; it must not be there, or be empty
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
}

/// Makes a collector's folder from a backup.
///
/// # Errors
///
/// [`CliError`] if the backup cannot be used or the folder not be made.
pub async fn run(args: Args) -> Result<(), CliError> {
    let (from, to) = (args.backup, args.data.clone());
    let copied = tokio::task::spawn_blocking(move || backup::restore(&from, &to));
    let bytes = with_spinner("copying and checking the backup", copied)
        .await
        .map_err(|error| CliError::failed(&error))?
        .map_err(|error| CliError::failed(&error))?;
    let data = args.data.display();
    output::note(&format!(
        "restored {bytes} bytes; start a collector on them: collector serve --data {data}"
    ))
}
