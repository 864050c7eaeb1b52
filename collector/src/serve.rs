//! A running collector: wires the parts, and starts and stops them in order.
//!
//! Start: receivers, store, directory, writer, alerts, watch, hooks, port. Stop: the port
//! closes first, so that nothing new comes; the writer ends when the last
//! stream let go of its queue; watch, hooks and retention end; the store closes
//! last. What was acknowledged is synced at any moment, so a stop that is cut
//! short loses nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use agent::{EmbedConfig, Profiling};
use proto::pb::tepui::admin_server::AdminServer;
use proto::pb::tepui::query_server::QueryServer;
use proto::status::chain;
use proto::window::Clock;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tracing::{error, info, warn};

use crate::admin::AdminService;
use crate::agents::Agents;
use crate::alert::{Alerts, Settings as AlertSettings};
use crate::auth::{Authenticator, TokenFileError};
use crate::backup::Backups;
use crate::config::{Config, ConfigError};
use crate::deletion::{self, Deletion};
use crate::detect::catalogue::{Catalogue, CatalogueError};
use crate::detect::spin::{SpinDetector, SpinSettings};
use crate::directory::Directory;
use crate::dirty::Dirty;
use crate::export::Exporter;
use crate::grpc::QueryService;
use crate::hook::{Hooks, ReceiverError, Receivers};
use crate::http::ingest::PprofDoor;
use crate::http::{App, router};
use crate::ingest::intake::{Intake, Limits};
use crate::ingest::stream::IngestService;
use crate::ingest::writer::{QUEUE_LENGTH, Writer};
use crate::listen::{self, ListenError};
use crate::memory::{Budget, Shares};
use crate::metrics::Metrics;
use crate::normalize::Rules;
use crate::query::Query;
use crate::retention::{Folder, Names, keep_house};
use crate::rollup::Rollup;
use crate::rollup::groups::Groups;
use crate::rollup::read::RangeReader;
use crate::rollup::rolled::Rolled;
use crate::status::Status;
use crate::store::rocks::RocksStore;
use crate::store::tier::Tier;
use crate::store::trees::Trees;
use crate::store::{StateStore, Store, StoreError};
use crate::watch::Watch;

/// Name of the service under which a collector profiles itself.
const OWN_SERVICE: &str = "collector";
/// How long the writer may take to end once the port is closed.
const WRITER_DRAIN: Duration = Duration::from_secs(10);

/// Why a collector cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A part ended by itself, which is a defect; the log says how.
    #[error("the {part} ended by itself; start the collector again, and report what its log says")]
    PartEnded {
        /// Which.
        part: &'static str,
    },
    /// The configuration is not usable.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The token file is not usable.
    #[error(transparent)]
    Tokens(#[from] TokenFileError),
    /// A receiver of alerts is not usable.
    #[error(transparent)]
    Receiver(#[from] ReceiverError),
    /// The port or its certificate is not usable.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The store cannot be opened or read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The catalogue of wait primitives, part of the program, is broken.
    #[error("the catalogue of wait primitives is broken")]
    Catalogue(#[from] CatalogueError),
    /// There is no random number for an instance.
    #[error("cannot draw a random number: {0}")]
    Random(getrandom::Error),
    /// The writer's thread cannot be started.
    #[error("cannot start the writer's thread")]
    Thread(#[source] std::io::Error),
}

/// Serves until `shutdown`.
///
/// # Errors
///
/// [`ServeError`] when a part cannot be started; nothing is served then.
pub async fn run(
    config: Config,
    clock: Arc<dyn Clock>,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let running = start(config, clock, shutdown).await?;
    running.finish().await
}

/// A collector that serves.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    url: String,
    status: Arc<Status>,
    shutdown: CancellationToken,
    port: JoinSet<()>,
    parts: JoinSet<()>,
    stop_parts: CancellationToken,
    store: Arc<dyn Store>,
    rolled: Arc<Rolled>,
    dirty: Arc<Dirty>,
    writer: Option<std::thread::JoinHandle<()>>,
    /// Cancelled when the writer ends.
    writer_ended: CancellationToken,
    profiling: Option<Profiling>,
}

/// What tells which minutes wait to be summed up or looked at.
#[derive(Clone, Debug)]
pub struct Backlog {
    rolled: Arc<Rolled>,
    dirty: Arc<Dirty>,
}

impl Backlog {
    /// Start of the earliest minute that waits, in seconds since 1970; the present one
    /// always does once it has a window.
    pub fn earliest(&self) -> Option<u64> {
        let earliest = [self.rolled.earliest(), self.dirty.earliest()];
        earliest.into_iter().flatten().min()
    }
}

impl Running {
    /// Where the port was opened.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What links begin with.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The store, for those who measure it.
    pub fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store)
    }

    /// What tells which minutes wait, for those who measure it.
    pub fn backlog(&self) -> Backlog {
        Backlog {
            rolled: Arc::clone(&self.rolled),
            dirty: Arc::clone(&self.dirty),
        }
    }

    /// Waits for the shutdown and stops every part in order. When a part ends by
    /// itself all are stopped: half a collector would take windows and never sum
    /// them, say.
    ///
    /// # Errors
    ///
    /// [`ServeError::PartEnded`] when a part ended by itself.
    pub async fn finish(mut self) -> Result<(), ServeError> {
        let early = tokio::select! {
            biased;
            () = self.shutdown.cancelled() => None,
            () = self.writer_ended.cancelled() => Some("writer"),
            ended = self.parts.join_next() => {
                ended.into_iter().for_each(|ended| note("part", ended));
                Some("background work")
            }
            ended = self.port.join_next() => {
                ended.into_iter().for_each(|ended| note("port", ended));
                Some("port")
            }
        };
        if let Some(part) = early {
            error!(part, "a part ended by itself; stopping");
            self.shutdown.cancel();
        }
        self.status.set_ready(false);
        info!("stopping");
        // Flushes its last window while the port still answers.
        if let Some(profiling) = self.profiling.take() {
            let flushed = tokio::task::spawn_blocking(move || drop(profiling)).await;
            note("own profile", flushed);
        }
        self.stop_parts.cancel();
        while let Some(ended) = self.port.join_next().await {
            note("port", ended);
        }
        if let Some(writer) = self.writer.take() {
            let ended = tokio::task::spawn_blocking(move || writer.join().is_ok());
            match tokio::time::timeout(WRITER_DRAIN, ended).await {
                Ok(Ok(true)) => {}
                Ok(_) => error!("the writer ended by a panic"),
                Err(_elapsed) => warn!("the writer is still busy; what is acknowledged is kept"),
            }
        }
        while let Some(ended) = self.parts.join_next().await {
            note("part", ended);
        }
        info!("stopped");
        early.map_or(Ok(()), |part| Err(ServeError::PartEnded { part }))
    }
}

fn note(part: &'static str, ended: Result<(), tokio::task::JoinError>) {
    if let Err(failure) = ended {
        error!(part, error = %failure, "ended by a panic");
    }
}

/// Starts every part.
///
/// # Errors
///
/// [`ServeError`] when a part cannot be started; nothing is served then.
pub async fn start(
    config: Config,
    clock: Arc<dyn Clock>,
    shutdown: CancellationToken,
) -> Result<Running, ServeError> {
    start_on(config, clock, shutdown, |store| store).await
}

/// As [`start`], on what `around` makes of the store: for those who watch it,
/// or have it fail.
///
/// # Errors
///
/// As [`start`].
pub async fn start_on(
    config: Config,
    clock: Arc<dyn Clock>,
    shutdown: CancellationToken,
    around: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>,
) -> Result<Running, ServeError> {
    for warning in config.warnings() {
        warn!("{warning}");
    }
    let authenticator = Arc::new(match config.token_file() {
        Some(path) => Authenticator::from_file(path)?,
        None => Authenticator::anonymous(),
    });
    let tls = match config.tls_files() {
        Some((cert, key)) => Some(listen::tls(cert, key)?),
        None => None,
    };
    let receivers = Receivers::new(&config.hook)?;
    let listener = listen::bind(config.listen_address()?).await?;
    let address = listen::address(&listener)?;
    let url = config.public_url(address);

    let metrics = Arc::new(Metrics::default());
    let agents = Arc::new(Agents::default());
    let started = clock.now();
    let shares = Shares::of(config.store.max_memory_bytes);
    let data = config.data.clone();
    let opened =
        tokio::task::spawn_blocking(move || RocksStore::open_with(&data, shares.store)).await;
    let store = match opened {
        Ok(opened) => around(Arc::new(opened?)),
        Err(panicked) => return Err(StoreError::Read(Box::new(panicked)).into()),
    };
    let state: Arc<dyn StateStore> = Arc::<dyn Store>::clone(&store);
    let max_nodes = usize::try_from(config.store.max_tree_nodes).unwrap_or(usize::MAX);
    let rules = config.store.normalization().unwrap_or(Rules::DEFAULT);
    let trees = Trees::new(Arc::clone(&store), shares.trees);
    let trees = Arc::new(trees.limited(max_nodes));
    let directory = Arc::new(Directory::open(Arc::clone(&store))?);
    let dirty = Arc::new(Dirty::new(config.detect.step, Arc::clone(&metrics)));
    let rolled = Arc::new(Rolled::open(&*store, clock.now())?);
    let groups = Groups::new(Arc::clone(&store), config.store.group_by.clone());
    let groups = Arc::new(groups);
    let reader = RangeReader::new(Arc::clone(&store), Arc::clone(&rolled), Arc::clone(&groups));

    let retention = config.store.retention();
    let writer = Writer::new(
        Arc::clone(&store),
        Arc::clone(&trees),
        Arc::clone(&directory),
        Arc::clone(&metrics),
        Arc::clone(&dirty),
        Arc::clone(&rolled),
        Arc::clone(&groups),
        Arc::clone(&clock),
        retention.longest().of(Tier::Day),
    )?
    .normalising(rules);
    let (queue, waiting) = mpsc::channel(QUEUE_LENGTH);
    let writer_ended = CancellationToken::new();
    let ended = writer_ended.clone();
    let writer = std::thread::Builder::new()
        .name("writer".to_owned())
        .spawn(move || {
            // Also when it ends by a panic.
            let _told = ended.drop_guard();
            writer.run(waiting);
        })
        .map_err(ServeError::Thread)?;

    let spin = SpinSettings {
        min_cores: config.detect.min_cores,
        ..SpinSettings::default()
    };
    let hooks = Arc::new(Hooks::open(
        receivers,
        Arc::clone(&state),
        &metrics,
        Arc::clone(&clock),
    )?);
    let status = Arc::new(Status::new(
        started,
        Arc::clone(&clock),
        Arc::clone(&metrics),
        Arc::clone(&agents),
        Arc::clone(&hooks),
    ));
    let alerts = Arc::new(Alerts::open(
        Arc::clone(&state),
        AlertSettings {
            step: config.detect.step,
            hold: config.detect.hold,
            keep: config.detect.keep,
            public_url: url.clone(),
            hooks: Arc::clone(&hooks),
            shift: config.detect.shift(),
            thresholds: config.detect.thresholds(),
        },
        vec![Box::new(SpinDetector { settings: spin })],
        Arc::clone(&metrics),
    )?);
    let query = Query::new(
        Arc::clone(&store),
        Arc::clone(&trees),
        Arc::clone(&directory),
        reader,
        Budget::new(shares.queries),
        Arc::clone(&clock),
    );
    let kept_dirty = Arc::clone(&dirty);
    let deletion = Arc::new(Deletion::new(deletion::Parts {
        store: Arc::clone(&store),
        trees: Arc::clone(&trees),
        directory: Arc::clone(&directory),
        rolled: Arc::clone(&rolled),
        groups: Arc::clone(&groups),
        dirty: Arc::clone(&dirty),
        alerts: Arc::clone(&alerts),
        query: query.clone(),
        clock: Arc::clone(&clock),
    }));
    deletion.finish()?;
    let exporter = Exporter::new(
        Arc::clone(&store),
        Arc::clone(&trees),
        Arc::clone(&directory),
        Arc::clone(&rolled),
        query.clone(),
    );
    let disk = Arc::new(AtomicBool::new(false));
    let limits = Limits {
        dictionaries: shares.dictionaries,
        arriving: shares.arriving,
        waiting: shares.waiting,
        disk: Arc::clone(&disk),
    };
    let intake = Intake::new(queue, Arc::clone(&metrics), limits, rules);
    let app = App::new(
        query,
        PprofDoor::new(intake.clone()).map_err(ServeError::Random)?,
        Arc::clone(&alerts),
        Arc::clone(&status),
        Arc::clone(&metrics),
        Arc::clone(&clock),
    );

    let stop_parts = CancellationToken::new();
    let mut parts = JoinSet::new();
    let rollup = Rollup::new(
        Arc::clone(&store),
        Arc::clone(&directory),
        Arc::clone(&rolled),
        groups,
        Arc::clone(&metrics),
        Arc::clone(&clock),
    );
    parts.spawn(rollup.run(stop_parts.clone()));
    let watch = Watch::new(
        Arc::clone(&store),
        Arc::clone(&trees),
        Arc::clone(&directory),
        dirty,
        Arc::clone(&alerts),
        Arc::clone(&agents),
        Arc::clone(&metrics),
        Arc::clone(&clock),
        Catalogue::built_in()?,
        spin,
    );
    parts.spawn(watch.run(stop_parts.clone()));
    parts.spawn(hooks.run(stop_parts.clone()));
    let (kept_store, kept_rolled) = (Arc::clone(&store), Arc::clone(&rolled));
    let names = Names::new(
        Arc::clone(&store),
        Arc::clone(&trees),
        Arc::clone(&directory),
        Arc::clone(&rolled),
        Arc::clone(&deletion),
    );
    parts.spawn(keep_house(
        store,
        trees,
        Arc::clone(&metrics),
        Arc::clone(&clock),
        rolled,
        Arc::clone(&directory),
        retention,
        names,
        Folder {
            path: config.data.clone(),
            max_bytes: config.store.max_disk_bytes,
            is_full: disk,
        },
        stop_parts.clone(),
    ));

    let ingest = IngestService::new(
        intake,
        Arc::clone(&clock),
        Arc::clone(&metrics),
        agents,
        stop_parts.clone(),
    );
    let backups = Backups::new(Arc::clone(&kept_store), config.backup_folder());
    let admin = AdminService::new(backups, deletion, Arc::clone(&alerts), clock);
    let queries = QueryService::new(app.clone(), exporter);
    let routes = routes(ingest, queries, admin).await;
    let router = router(app, routes, authenticator);
    let mut port = JoinSet::new();
    port.spawn(listen::serve(
        listener,
        tls.clone(),
        router,
        metrics,
        stop_parts.clone(),
    ));
    status.set_ready(true);
    info!(%address, %url, "serving");

    let profiling = config
        .self_profile
        .enabled
        .then(|| profile_self(&config, address));
    Ok(Running {
        address,
        url,
        status,
        shutdown,
        port,
        parts,
        stop_parts,
        store: kept_store,
        rolled: kept_rolled,
        dirty: kept_dirty,
        writer: Some(writer),
        writer_ended,
        profiling: profiling.flatten(),
    })
}

/// The gRPC services of the port.
async fn routes(ingest: IngestService, query: QueryService, admin: AdminService) -> Routes {
    let (health, health_service) = tonic_health::server::health_reporter();
    let query = QueryServer::new(query).max_encoding_message_size(usize::MAX);
    health.set_serving::<IngestService>().await;
    health.set_serving::<QueryServer<QueryService>>().await;
    Routes::new(ingest)
        .add_service(query)
        .add_service(AdminServer::new(admin))
        .add_service(health_service)
}

/// Starts the profile of this process into this process. A collector without
/// it is whole, so a failure is only told.
fn profile_self(config: &Config, address: SocketAddr) -> Option<Profiling> {
    if config.tls_files().is_some() || config.token_file().is_some() {
        info!("own profile is off: it needs a port without tokens or TLS");
        return None;
    }
    let mut own = EmbedConfig::new(OWN_SERVICE);
    let mut reached = address;
    if reached.ip().is_unspecified() {
        reached.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    own.collector = format!("http://{reached}");
    own.spool_dir = Some(config.data.join("own-spool"));
    own.labels = vec![("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned())];
    match agent::embed(own) {
        Ok(profiling) => Some(profiling),
        Err(failure) => {
            warn!(error = chain(&failure), "own profile not started");
            None
        }
    }
}
