//! How client verbs reach a collector.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use proto::pb::tepui::admin_client::AdminClient;
use proto::pb::tepui::ingest_client::IngestClient;
use proto::pb::tepui::query_client::QueryClient;
use proto::status::chain;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};

use super::CliError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long work of operators may take, such as a copy to another disk.
pub const WORK_TIMEOUT: Duration = Duration::from_secs(6 * 3_600);
/// Largest answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// Which collector is asked, and as whom.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Connection")]
pub struct ClientArgs {
    /// Address of the collector
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:4040")]
    pub server: String,
    /// File with the bearer token to send
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// File with PEM certificates to trust instead of the system's
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
}

/// Adds the token to every call.
#[derive(Clone, Debug)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// A collector that answers.
#[derive(Clone, Debug)]
pub struct Client {
    /// The calls.
    pub query: QueryClient<InterceptedService<Channel, Bearer>>,
    /// The calls of operators.
    pub admin: AdminClient<InterceptedService<Channel, Bearer>>,
    /// The call that brings windows.
    pub ingest: IngestClient<InterceptedService<Channel, Bearer>>,
    server: String,
}

impl ClientArgs {
    /// Connects.
    ///
    /// # Errors
    ///
    /// [`CliError`] if a file cannot be read, the URL is none, or nobody
    /// answers there.
    pub async fn connect(&self) -> Result<Client, CliError> {
        self.connect_for(ANSWER_TIMEOUT).await
    }

    /// As [`ClientArgs::connect`], for answers that may take as long as `patience`.
    ///
    /// # Errors
    ///
    /// As [`ClientArgs::connect`].
    pub async fn connect_for(&self, patience: Duration) -> Result<Client, CliError> {
        let bearer = Bearer(self.token()?);
        let wrong_url = |why: &str| {
            CliError::Usage(format!(
                "--server {:?} cannot be used: {why}; it must read http://HOST:PORT or https://HOST:PORT",
                self.server
            ))
        };
        let mut endpoint = Endpoint::from_str(&self.server)
            .map_err(|error| wrong_url(&chain(&error)))?
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(patience);
        match endpoint.uri().scheme_str() {
            Some("http") => {}
            Some("https") => {
                endpoint = endpoint
                    .tls_config(self.tls()?)
                    .map_err(|error| CliError::failed(&error))?;
            }
            _ => return Err(wrong_url("it has no scheme")),
        }
        let channel = endpoint.connect().await.map_err(|error| {
            CliError::Failed(format!(
                "cannot reach a collector at {}: {}\nis `collector serve` running there? name another with --server URL",
                self.server,
                chain(&error)
            ))
        })?;
        Ok(Client {
            admin: AdminClient::with_interceptor(channel.clone(), bearer.clone()),
            ingest: IngestClient::with_interceptor(channel.clone(), bearer.clone()),
            query: QueryClient::with_interceptor(channel, bearer)
                .max_decoding_message_size(MAX_ANSWER_BYTES),
            server: self.server.clone(),
        })
    }

    fn token(&self) -> Result<Option<MetadataValue<Ascii>>, CliError> {
        let Some(path) = &self.token_file else {
            return Ok(None);
        };
        let text = std::fs::read_to_string(path).map_err(|error| {
            CliError::Usage(format!(
                "cannot read --token-file {}: {error}",
                path.display()
            ))
        })?;
        let mut value: MetadataValue<Ascii> =
            format!("Bearer {}", text.trim()).parse().map_err(|_| {
                let path = path.display();
                CliError::Usage(format!(
                    "--token-file {path} must hold one token in plain ASCII"
                ))
            })?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    fn tls(&self) -> Result<ClientTlsConfig, CliError> {
        let Some(path) = &self.ca_file else {
            return Ok(ClientTlsConfig::new().with_native_roots());
        };
        let pem = std::fs::read(path).map_err(|error| {
            CliError::Usage(format!("cannot read --ca-file {}: {error}", path.display()))
        })?;
        Ok(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)))
    }
}

impl Client {
    /// What a failed call means for the user; `what` says what was being done.
    pub fn failure(&self, what: &str, status: &Status) -> CliError {
        let hint = match status.code() {
            Code::Unauthenticated => "\nname a file with a token: --token-file FILE",
            Code::Unavailable => "\nis `collector serve` still running there? try again",
            Code::DeadlineExceeded | Code::Cancelled => "\nask for a shorter range",
            Code::Unimplemented => "\nis there an older collector, or another program?",
            _ => "",
        };
        let message = match status.message() {
            "" => status.code().description(),
            message => message,
        };
        let message = super::output::printable(message);
        CliError::Failed(format!(
            "cannot {what} from {}: {message}{hint}",
            self.server
        ))
    }
}
