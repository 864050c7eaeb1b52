//! `collector delete`.

use std::io::{self, IsTerminal, Write as _};

use proto::pb::tepui as pb;

use super::CliError;
use super::client::{ClientArgs, WORK_TIMEOUT};
use super::output::{self, printable, with_spinner};

/// Flags of `delete`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  collector delete --service prod/logger
      shows what there is of it, asks, and deletes all of it for good
  collector delete --service /logger --yes
      the one without a namespace, without asking

An agent that still runs beside the service makes it anew with its next window:
stop it first. With tokens, a token of the role admin and of the service's tenant
is needed.")]
pub struct Args {
    /// Service, or NAMESPACE/SERVICE
    #[arg(long, value_name = "NAME")]
    service: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    client: ClientArgs,
}

/// Deletes a service.
///
/// # Errors
///
/// [`CliError`] if nobody can be asked or the answer is no, or the collector
/// does not answer or does not delete.
pub async fn run(args: Args) -> Result<(), CliError> {
    let can_ask = io::stdin().is_terminal() && io::stderr().is_terminal();
    if !args.yes && !can_ask {
        return Err(CliError::Usage(
            "there is no terminal to ask at whether the service is to be deleted; add --yes"
                .to_owned(),
        ));
    }
    let mut client = args.client.connect_for(WORK_TIMEOUT).await?;
    let what = format!("delete {:?}", args.service);
    let mut service = args.service;
    if !args.yes {
        let request = pb::DeleteServiceRequest {
            service: service.clone(),
            dry_run: true,
        };
        let found = client.admin.delete_service(request).await;
        let found = found
            .map_err(|status| client.failure(&what, &status))?
            .into_inner();
        if !ask(&question(&found)).await? {
            return Err(CliError::Failed("nothing was deleted".to_owned()));
        }
        // Just the one that was shown.
        service = full_name(&found);
    }
    let request = pb::DeleteServiceRequest {
        service,
        dry_run: false,
    };
    let deleted = with_spinner("deleting", client.admin.delete_service(request)).await;
    let deleted = deleted.map_err(|status| client.failure(&what, &status))?;
    output::note(&format!("deleted {}", description(&deleted.into_inner())))
}

/// The name that means this service alone.
fn full_name(found: &pb::DeleteServiceResponse) -> String {
    format!("{}/{}", found.namespace, found.service)
}

fn description(found: &pb::DeleteServiceResponse) -> String {
    let plural = |count: u64, one: &str, more: &str| match count {
        1 => format!("1 {one}"),
        count => format!("{count} {more}"),
    };
    let name = full_name(found);
    format!(
        "{} with {} and {}",
        printable(name.trim_start_matches('/')).replace('\n', "\u{fffd}"),
        plural(found.series, "series", "series"),
        plural(found.alerts, "alert", "alerts"),
    )
}

fn question(found: &pb::DeleteServiceResponse) -> String {
    format!(
        "delete {}, and everything stored of it, for good? [y/N] ",
        description(found)
    )
}

/// Asks on the terminal.
async fn ask(question: &str) -> Result<bool, CliError> {
    let failed = |error: io::Error| CliError::Failed(format!("cannot ask: {error}"));
    let mut stderr = io::stderr();
    stderr
        .write_all(question.as_bytes())
        .and_then(|()| stderr.flush())
        .map_err(failed)?;
    let read = tokio::task::spawn_blocking(|| {
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).map(|_| answer)
    });
    let answer = read.await.map_err(|error| CliError::failed(&error))?;
    Ok(is_yes(&answer.map_err(failed)?))
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_means_yes() {
        for (answer, expected) in [
            ("y\n", true),
            ("Yes\r\n", true),
            ("", false),
            ("\n", false),
            ("n\n", false),
            ("yess\n", false),
        ] {
            assert_eq!(is_yes(answer), expected, "{answer:?}");
        }
    }

    #[test]
    fn the_question_names_what_goes() {
        let found = |namespace: &str, series, alerts| pb::DeleteServiceResponse {
            namespace: namespace.to_owned(),
            service: "log\u{1b}ger".to_owned(),
            series,
            alerts,
        };
        for (found, expected) in [
            (
                found("prod", 3, 1),
                "delete prod/log\u{fffd}ger with 3 series and 1 alert, and everything stored of it, for good? [y/N] ",
            ),
            (
                found("", 1, 0),
                "delete log\u{fffd}ger with 1 series and 0 alerts, and everything stored of it, for good? [y/N] ",
            ),
        ] {
            assert_eq!(question(&found), expected);
        }
    }
}
