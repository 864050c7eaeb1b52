//! Configuration of the agent: defaults, then a TOML file, then environment
//! variables `TEPUI__AGENT__SECTION__KEY`, then flags.
//!
//! Checked once, before anything is opened. Unknown keys are errors, unknown
//! variables under the agent's prefix too; the collector's part of the
//! environment is not looked at. `agent.example.toml` equals the defaults.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::{Environment, File, FileFormat};
use proto::labels::{LabelError, LabelSet};
use regex::{Regex, RegexBuilder};
use serde::Deserialize;

/// Prefix of the agent's environment variables.
pub const ENV_PREFIX: &str = "TEPUI__AGENT";
/// Largest compiled `target.command`, in bytes.
const MAX_REGEX_BYTES: usize = 1 << 20;
/// Lowest and highest rates that `perf` is asked for.
const RATES_HZ: std::ops::RangeInclusive<u32> = 1..=1000;
/// Fewest and most looks per second at a Python program.
const PYTHON_RATES_HZ: std::ops::RangeInclusive<u32> = 1..=250;
/// Fewest and most looks per second at what threads wait for.
const WALL_RATES_HZ: std::ops::RangeInclusive<u32> = 1..=100;
/// Least and most CPU that the agent may be allowed.
const BUDGET_MILLICORES: std::ops::RangeInclusive<u32> = 1..=64_000;
/// Least memory that it may be allowed.
const MIN_BUDGET_BYTES: u64 = 1 << 20;
/// Least and most stack bytes per sample; the kernel's limit is 64 KiB.
const STACK_BYTES: std::ops::RangeInclusive<u32> = 1024..=65528;
/// Smallest spool: a few windows must fit.
const MIN_SPOOL_BYTES: u64 = 1 << 20;

/// Everything that can be set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What to profile.
    pub target: TargetConfig,
    /// Labels of the target's series; empty values are left out.
    pub labels: BTreeMap<String, String>,
    /// Where to ship.
    pub collector: CollectorConfig,
    /// Windows.
    pub window: WindowConfig,
    /// CPU sampling.
    pub cpu: CpuConfig,
    /// Sampling of what threads wait for.
    pub wall: WallConfig,
    /// What the agent may cost.
    pub budget: BudgetConfig,
    /// Go's `/debug/pprof`.
    pub endpoint: EndpointConfig,
    /// Java virtual machines.
    pub jvm: JvmConfig,
    /// Where windows wait.
    pub spool: SpoolConfig,
}

/// What to profile; see [`crate::target::Selection`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TargetConfig {
    /// Process id; 0 means not given.
    pub pid: i32,
    /// Program name; empty means not given.
    pub name: String,
    /// Regular expression over the command line; empty means not given.
    pub command: String,
}

/// Where to ship.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CollectorConfig {
    /// `http://` or `https://` address of the collector.
    pub url: String,
    /// File with the bearer token; empty for none.
    pub token_file: PathBuf,
    /// File with PEM certificates to trust; empty for the system's.
    pub ca_file: PathBuf,
}

/// Windows.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WindowConfig {
    /// Length of a window.
    #[serde(with = "humantime_serde")]
    pub length: Duration,
}

/// Where CPU samples come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum CpuSource {
    /// `python` for Python programs, `jvm` for Java virtual machines and `perf` for others, where
    /// they work; else the endpoint; else `proc`.
    #[default]
    Auto,
    /// perf events only; of Python they show the interpreter's own functions.
    Perf,
    /// Python programs only, their functions and lines.
    Python,
    /// Java virtual machines only, by their flight recorder.
    Jvm,
    /// How much CPU each thread used, without functions.
    Proc,
    /// Go's `/debug/pprof/profile` only.
    Endpoint,
    /// No CPU samples.
    Off,
}

/// CPU sampling.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CpuConfig {
    /// Where samples come from.
    pub source: CpuSource,
    /// Samples per second of CPU time.
    pub rate_hz: u32,
    /// Most looks per second at a Python program.
    pub python_rate_hz: u32,
    /// Bytes of stack per sample.
    pub stack_bytes: u32,
}

/// Where samples of waiting come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WallSource {
    /// There are none.
    #[default]
    Off,
    /// States and system calls of all threads.
    Proc,
}

/// Sampling of what threads wait for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WallConfig {
    /// Where samples come from.
    pub source: WallSource,
    /// Most looks per second.
    pub rate_hz: u32,
}

/// What the agent may cost; see [`crate::govern`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BudgetConfig {
    /// CPU time of all its threads, in thousandths of a core.
    pub cpu_millicores: u32,
    /// Resident memory.
    pub memory_bytes: u64,
}

/// Which `/debug/pprof` is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub enum EndpointChoice {
    /// Look for one among the target's ports.
    #[default]
    Auto,
    /// None.
    Off,
    /// This one, without a slash at its end.
    Url(String),
}

impl From<String> for EndpointChoice {
    fn from(text: String) -> Self {
        match text.as_str() {
            "auto" | "" => Self::Auto,
            "off" => Self::Off,
            url => Self::Url(url.trim_end_matches('/').to_owned()),
        }
    }
}

/// Go's `/debug/pprof`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EndpointConfig {
    /// Which one.
    pub url: EndpointChoice,
    /// Length of one CPU profile, in whole seconds.
    #[serde(with = "humantime_serde")]
    pub cpu_length: Duration,
    /// Time between the starts of two CPU profiles.
    #[serde(with = "humantime_serde")]
    pub cpu_every: Duration,
    /// Time between two pictures of the other profiles.
    #[serde(with = "humantime_serde")]
    pub snapshot_every: Duration,
}

/// Whether Java virtual machines are let record themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JvmMode {
    /// Each one that allows it.
    #[default]
    Auto,
    /// None; nothing is attached to.
    Off,
}

/// Java virtual machines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JvmConfig {
    /// Whether they are let record themselves.
    pub mode: JvmMode,
}

/// Where windows wait.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SpoolConfig {
    /// The folder; empty for [`SpoolConfig::folder`]'s default.
    pub directory: PathBuf,
    /// Largest size of all files in it.
    pub max_bytes: u64,
}

impl Default for CollectorConfig {
    fn default() -> Self {
        Self {
            url: "http://127.0.0.1:4040".to_owned(),
            token_file: PathBuf::new(),
            ca_file: PathBuf::new(),
        }
    }
}

impl Default for WindowConfig {
    fn default() -> Self {
        Self {
            length: Duration::from_secs(10),
        }
    }
}

impl Default for CpuConfig {
    fn default() -> Self {
        Self {
            source: CpuSource::Auto,
            rate_hz: 99,
            python_rate_hz: 49,
            stack_bytes: 16 * 1024,
        }
    }
}

impl Default for WallConfig {
    fn default() -> Self {
        Self {
            source: WallSource::Off,
            rate_hz: 10,
        }
    }
}

impl Default for BudgetConfig {
    fn default() -> Self {
        Self {
            cpu_millicores: 10,
            memory_bytes: 40 << 20,
        }
    }
}

impl Default for EndpointConfig {
    fn default() -> Self {
        Self {
            url: EndpointChoice::Auto,
            cpu_length: Duration::from_secs(10),
            cpu_every: Duration::from_secs(60),
            snapshot_every: Duration::from_secs(60),
        }
    }
}

impl Default for SpoolConfig {
    fn default() -> Self {
        Self {
            directory: PathBuf::new(),
            max_bytes: 64 << 20,
        }
    }
}

impl SpoolConfig {
    /// The folder to use. By default each collector has one of its own, so that
    /// what waits for one is never sent to another.
    pub fn folder(&self, collector_url: &str) -> PathBuf {
        if self.directory.as_os_str().is_empty() {
            let of = xxhash_rust::xxh3::xxh3_64(collector_url.as_bytes());
            std::env::temp_dir().join(format!("tepui-agent-spool-{of:016x}"))
        } else {
            self.directory.clone()
        }
    }
}

/// Values given on the command line; they win over everything else.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `target.pid`.
    pub pid: Option<i32>,
    /// `target.name`.
    pub name: Option<String>,
    /// `target.command`.
    pub command: Option<String>,
    /// `labels.service`.
    pub service: Option<String>,
    /// `collector.url`.
    pub collector: Option<String>,
    /// `cpu.source`.
    pub source: Option<CpuSource>,
    /// `endpoint.url`.
    pub endpoint: Option<String>,
    /// `spool.directory`.
    pub spool: Option<PathBuf>,
}

/// Why a configuration is not used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file or variable cannot be read or holds an unknown key.
    #[error("cannot read the configuration")]
    Read(#[source] config::ConfigError),
    /// A value cannot be used.
    #[error("{key} = {value:?} cannot be used: {reason}")]
    Value {
        /// The key, with its section.
        key: &'static str,
        /// Its value.
        value: String,
        /// What it must be.
        reason: &'static str,
    },
    /// A regular expression is wrong.
    #[error("target.command = {value:?} is no regular expression")]
    Command {
        /// The expression.
        value: String,
        /// What is wrong with it.
        #[source]
        source: regex::Error,
    },
    /// The labels make no label set.
    #[error("the labels of the target cannot be used")]
    Labels(#[source] LabelError),
}

impl Config {
    /// Reads and checks the configuration.
    ///
    /// `environment` holds all variables of the process.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if a source cannot be read, a key is unknown, or a
    /// value cannot be used.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        overrides: Overrides,
    ) -> Result<Self, ConfigError> {
        let mut builder = config::Config::builder();
        if let Some(path) = file {
            builder = builder.add_source(File::from(path).format(FileFormat::Toml));
        }
        let environment = Environment::with_prefix(ENV_PREFIX)
            .prefix_separator("__")
            .separator("__")
            .source(Some(environment.into_iter().collect()));
        let mut config: Self = builder
            .add_source(environment)
            .build()
            .and_then(config::Config::try_deserialize)
            .map_err(ConfigError::Read)?;
        config.apply(overrides);
        config.check()?;
        Ok(config)
    }

    fn apply(&mut self, overrides: Overrides) {
        fn set<T>(place: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *place = value;
            }
        }
        // A target given by a flag replaces the file's whole choice.
        if overrides.pid.is_some() || overrides.name.is_some() || overrides.command.is_some() {
            self.target = TargetConfig::default();
        }
        set(&mut self.target.pid, overrides.pid);
        set(&mut self.target.name, overrides.name);
        set(&mut self.target.command, overrides.command);
        set(&mut self.collector.url, overrides.collector);
        set(&mut self.cpu.source, overrides.source);
        set(&mut self.spool.directory, overrides.spool);
        set(
            &mut self.endpoint.url,
            overrides.endpoint.map(EndpointChoice::from),
        );
        if let Some(service) = overrides.service {
            self.labels
                .insert(proto::labels::SERVICE.to_owned(), service);
        }
    }

    /// The labels of the target, without empty ones.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Labels`] if they make no label set.
    pub fn label_set(&self) -> Result<LabelSet, ConfigError> {
        LabelSet::new(self.labels.iter()).map_err(ConfigError::Labels)
    }

    /// `target.command`, compiled; nothing when it is empty.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Command`] if it is no regular expression.
    pub fn command_regex(&self) -> Result<Option<Regex>, ConfigError> {
        if self.target.command.is_empty() {
            return Ok(None);
        }
        RegexBuilder::new(&self.target.command)
            .size_limit(MAX_REGEX_BYTES)
            .build()
            .map(Some)
            .map_err(|source| ConfigError::Command {
                value: self.target.command.clone(),
                source,
            })
    }

    fn check(&self) -> Result<(), ConfigError> {
        let rules: [(&'static str, String, bool, &'static str); 15] = [
            (
                "target.pid",
                self.target.pid.to_string(),
                self.target.pid >= 0,
                "it must be a process id, or 0",
            ),
            (
                "collector.url",
                self.collector.url.clone(),
                is_url(&self.collector.url),
                "it must begin with http:// or https:// and name a host",
            ),
            (
                "window.length",
                text(self.window.length),
                whole_seconds(self.window.length, 1, 3600),
                "it must be whole seconds between 1s and 1h",
            ),
            (
                "cpu.rate_hz",
                self.cpu.rate_hz.to_string(),
                RATES_HZ.contains(&self.cpu.rate_hz),
                "it must be between 1 and 1000",
            ),
            (
                "cpu.python_rate_hz",
                self.cpu.python_rate_hz.to_string(),
                PYTHON_RATES_HZ.contains(&self.cpu.python_rate_hz),
                "it must be between 1 and 250",
            ),
            (
                "cpu.stack_bytes",
                self.cpu.stack_bytes.to_string(),
                STACK_BYTES.contains(&self.cpu.stack_bytes)
                    && self.cpu.stack_bytes.is_multiple_of(8),
                "it must be a multiple of 8 between 1024 and 65528",
            ),
            (
                "wall.rate_hz",
                self.wall.rate_hz.to_string(),
                WALL_RATES_HZ.contains(&self.wall.rate_hz),
                "it must be between 1 and 100",
            ),
            (
                "budget.cpu_millicores",
                self.budget.cpu_millicores.to_string(),
                BUDGET_MILLICORES.contains(&self.budget.cpu_millicores),
                "it must be between 1 and 64000",
            ),
            (
                "budget.memory_bytes",
                self.budget.memory_bytes.to_string(),
                self.budget.memory_bytes >= MIN_BUDGET_BYTES,
                "it must be at least 1048576",
            ),
            (
                "jvm.mode",
                format!("{:?}", self.jvm.mode).to_lowercase(),
                self.jvm.mode != JvmMode::Off || self.cpu.source != CpuSource::Jvm,
                "it must be \"auto\" where cpu.source is \"jvm\"",
            ),
            (
                "endpoint.url",
                format!("{:?}", self.endpoint.url),
                match &self.endpoint.url {
                    EndpointChoice::Url(url) => url.starts_with("http://") && is_url(url),
                    EndpointChoice::Auto | EndpointChoice::Off => true,
                },
                "it must be \"auto\", \"off\" or begin with http:// and name a host",
            ),
            (
                "endpoint.cpu_length",
                text(self.endpoint.cpu_length),
                whole_seconds(self.endpoint.cpu_length, 1, 300),
                "it must be whole seconds between 1s and 5m",
            ),
            (
                "endpoint.cpu_every",
                text(self.endpoint.cpu_every),
                whole_seconds(self.endpoint.cpu_every, 1, 86400)
                    && self.endpoint.cpu_every >= self.endpoint.cpu_length
                    && is_multiple(self.endpoint.cpu_every, self.window.length),
                "it must be a multiple of window.length and not shorter than endpoint.cpu_length",
            ),
            (
                "endpoint.snapshot_every",
                text(self.endpoint.snapshot_every),
                whole_seconds(self.endpoint.snapshot_every, 1, 86400)
                    && is_multiple(self.endpoint.snapshot_every, self.window.length),
                "it must be a multiple of window.length",
            ),
            (
                "spool.max_bytes",
                self.spool.max_bytes.to_string(),
                self.spool.max_bytes >= MIN_SPOOL_BYTES,
                "it must be at least 1048576",
            ),
        ];
        for (key, value, holds, reason) in rules {
            if !holds {
                return Err(ConfigError::Value { key, value, reason });
            }
        }
        self.label_set()?;
        self.command_regex()?;
        Ok(())
    }
}

fn is_url(text: &str) -> bool {
    let rest = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
        && !text.chars().any(char::is_whitespace)
}

fn text(length: Duration) -> String {
    humantime::format_duration(length).to_string()
}

fn whole_seconds(length: Duration, least: u64, most: u64) -> bool {
    length.subsec_nanos() == 0 && (least..=most).contains(&length.as_secs())
}

fn is_multiple(length: Duration, of: Duration) -> bool {
    length
        .as_nanos()
        .checked_rem(of.as_nanos())
        .is_some_and(|rest| rest == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/agent.example.toml");

    fn load(toml: &str, env: &[(&str, &str)], flags: Overrides) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.toml");
        std::fs::write(&path, toml).unwrap();
        let env = env
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Config::load(Some(&path), env, flags)
    }

    #[test]
    fn the_example_equals_the_defaults() {
        let none = std::iter::empty();
        let mut example =
            Config::load(Some(Path::new(EXAMPLE)), none, Overrides::default()).unwrap();
        assert!(example.labels.values().all(String::is_empty));
        example.labels.clear();
        assert_eq!(example, Config::default());
    }

    #[test]
    fn later_layers_win() {
        let toml = "[cpu]\nrate_hz = 10\nstack_bytes = 8192\n[labels]\nservice = \"file\"\nTeam = \"a\"\n[endpoint]\nsnapshot_every = \"30s\"";
        let env = [
            ("TEPUI__AGENT__CPU__RATE_HZ", "20"),
            ("TEPUI__AGENT__LABELS__SERVICE", "env"),
            ("TEPUI__AGENT__LABELS__POD", "p-1"),
            ("TEPUI__COLLECTOR__LISTEN", "ignored"),
            ("TEPUI_AGENT_PORT", "tcp://ignored"),
        ];
        let flags = Overrides {
            service: Some("flag".to_owned()),
            source: Some(CpuSource::Endpoint),
            ..Overrides::default()
        };
        let config = load(toml, &env, flags).unwrap();
        assert_eq!(config.cpu.rate_hz, 20);
        assert_eq!(config.cpu.stack_bytes, 8192);
        assert_eq!(config.cpu.source, CpuSource::Endpoint);
        assert_eq!(config.endpoint.snapshot_every, Duration::from_secs(30));
        let labels = config.label_set().unwrap();
        let pairs: Vec<_> = labels.iter().collect();
        assert_eq!(pairs, [("Team", "a"), ("pod", "p-1"), ("service", "flag")]);
    }

    #[test]
    fn a_target_flag_replaces_the_whole_choice() {
        let flags = Overrides {
            pid: Some(7),
            ..Overrides::default()
        };
        let config = load("[target]\nname = \"x\"", &[], flags).unwrap();
        assert_eq!((config.target.pid, config.target.name.as_str()), (7, ""));
    }

    #[test]
    fn wrong_settings_are_refused_by_name() {
        for (toml, env, expected) in [
            ("[cpu]\nrate = 1", None, "rate"),
            ("[nonsense]", None, "nonsense"),
            ("[cpu]\nsource = \"magic\"", None, "magic"),
            ("[jvm]\nmode = \"magic\"", None, "magic"),
            (
                "[cpu]\nsource = \"jvm\"\n[jvm]\nmode = \"off\"",
                None,
                "jvm.mode",
            ),
            ("", Some(("TEPUI__AGENT__CPU__RATES", "1")), "rates"),
            ("", Some(("TEPUI__AGENT__CPU__RATE_HZ", "many")), "many"),
            ("[cpu]\nrate_hz = 0", None, "cpu.rate_hz"),
            ("[cpu]\npython_rate_hz = 251", None, "cpu.python_rate_hz"),
            ("[wall]\nrate_hz = 0", None, "wall.rate_hz"),
            (
                "[budget]\ncpu_millicores = 0",
                None,
                "budget.cpu_millicores",
            ),
            ("[budget]\nmemory_bytes = 9", None, "budget.memory_bytes"),
            ("[wall]\nsource = \"perf\"", None, "perf"),
            ("[window]\nlength = \"0s\"", None, "window.length"),
            ("[window]\nlength = \"7s\"", None, "endpoint.cpu_every"),
            ("[endpoint]\nurl = \"ftp://x\"", None, "endpoint.url"),
            ("[collector]\nurl = \"localhost\"", None, "collector.url"),
            ("[target]\ncommand = \"(\"", None, "target.command"),
            ("[spool]\nmax_bytes = 1", None, "spool.max_bytes"),
            ("[labels]\n\"\" = \"x\"", None, "labels"),
        ] {
            let error = load(toml, env.as_slice(), Overrides::default()).unwrap_err();
            let mut shown = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(inner) = cause {
                shown = format!("{shown}: {inner}");
                cause = inner.source();
            }
            assert!(shown.contains(expected), "{toml} {env:?}: {shown}");
        }
    }
}
