//! `collector backup`.

use proto::pb::tepui as pb;

use super::CliError;
use super::client::{ClientArgs, WORK_TIMEOUT};
use super::output::{self, printable, with_spinner};

/// Flags of `backup`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  collector backup before-upgrade
      copies everything while the collector runs; prints the folder of the copy,
      which lies on the collector's machine, in store.backup_folder
  collector restore tepui-data-backups/before-upgrade --data ./restored
      makes the folder of a new collector from it

Files are shared with the database by hard links where the file system can, so
that a backup takes little room at first. Remove one with rm -r. With tokens, a
token of the role admin is needed.")]
pub struct Args {
    /// Name of the folder to make: letters, digits, '.', '_' and '-'
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    client: ClientArgs,
}

/// Asks a running collector for a backup and prints its folder.
///
/// # Errors
///
/// [`CliError`] if the collector does not answer or makes none.
pub async fn run(args: Args) -> Result<(), CliError> {
    let mut client = args.client.connect_for(WORK_TIMEOUT).await?;
    let request = pb::BackupRequest {
        name: args.name.clone(),
    };
    let response = with_spinner("making a backup", client.admin.backup(request)).await;
    let what = format!("make backup {:?}", args.name);
    let response = response.map_err(|status| client.failure(&what, &status))?;
    let folder = response.into_inner().folder;
    output::print(format!("{}\n", printable(&folder)).as_bytes())
}
