//! Configuration of the collector: defaults, then a TOML file, then
//! environment variables `TEPUI__COLLECTOR__SECTION__KEY`, then flags.
//!
//! Checked once, before any port opens. Unknown keys are errors, unknown
//! variables under the collector's prefix too; the agent's part of the
//! environment is not looked at. `collector.example.toml` equals the defaults.

mod hook;
mod store;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::{Environment, File, FileFormat};
use serde::Deserialize;

pub use self::hook::{HookConfig, MatchConfig, ReceiverConfig, ReceiverKind, Secret};
pub use self::store::{RetentionOverride, StoreConfig};
use crate::detect::shift::ShiftSettings;
use crate::detect::{FindingKind, Thresholds};

/// Prefix of the collector's environment variables.
pub const ENV_PREFIX: &str = "TEPUI__COLLECTOR";
/// Exit code of a process whose configuration cannot be used
/// (`EX_USAGE` of sysexits.h).
pub const EXIT_CODE: u8 = 64;
const HOUR: Duration = Duration::from_secs(3_600);

/// Everything that can be set.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address and port of gRPC, API and page; port 0 takes a free one.
    pub listen: String,
    /// Folder of the store.
    pub data: PathBuf,
    /// Address that links in alerts begin with; empty for the listening one.
    pub public_url: String,
    /// Who may ask and push.
    pub auth: AuthConfig,
    /// Encryption.
    pub tls: TlsConfig,
    /// What is kept.
    pub store: StoreConfig,
    /// When a finding becomes an alert.
    pub detect: DetectConfig,
    /// Where alerts are sent.
    pub hook: HookConfig,
    /// The collector's own profile.
    pub self_profile: SelfProfileConfig,
}

/// Who may ask and push.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// File of bearer tokens; empty for none.
    pub token_file: PathBuf,
    /// Whether to serve other machines without tokens.
    pub allow_unauthenticated: bool,
}

/// Encryption; without both files the port speaks plain text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// File with the certificate and its chain, PEM.
    pub cert_file: PathBuf,
    /// File with the certificate's key, PEM.
    pub key_file: PathBuf,
}

/// When a finding becomes an alert.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DetectConfig {
    /// Grain of a feature row.
    #[serde(with = "humantime_serde")]
    pub step: Duration,
    /// How long a finding lasts before it fires; `for` in the file.
    #[serde(rename = "for", with = "humantime_serde")]
    pub hold: Duration,
    /// How long it must be gone before it resolves.
    #[serde(with = "humantime_serde")]
    pub keep: Duration,
    /// Cores below which a spin is not reported.
    pub min_cores: f64,
    /// How small a change of a function's cost is told.
    pub functions: Sensitivity,
    /// Kinds of alerts that are not raised.
    pub off: Vec<String>,
}

/// How small a change of a function's cost is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sensitivity {
    /// None is.
    Off,
    /// From 7 % of the function and a quarter of a percent of the service on.
    #[default]
    Normal,
    /// From 1.5 % of the function and 0.02 % of the service on, after hours: for
    /// services of many pods.
    High,
}

impl DetectConfig {
    /// When a function became dearer.
    pub fn shift(&self) -> ShiftSettings {
        self.functions.settings()
    }

    /// When numbers are findings, and which kinds are not looked for.
    pub fn thresholds(&self) -> Thresholds {
        let off = self.off.iter();
        Thresholds {
            off: off.filter_map(|word| FindingKind::named(word)).collect(),
            ..Thresholds::default()
        }
    }
}

impl Sensitivity {
    /// The one that is called `word`.
    pub fn named(word: &str) -> Option<Self> {
        match word {
            "off" => Some(Self::Off),
            "normal" => Some(Self::Normal),
            "high" => Some(Self::High),
            _ => None,
        }
    }

    /// When a function became dearer.
    pub fn settings(self) -> ShiftSettings {
        let settings = ShiftSettings::default();
        match self {
            Self::Off => ShiftSettings {
                is_enabled: false,
                ..settings
            },
            Self::Normal => settings,
            Self::High => settings.sensitive(),
        }
    }
}

/// The collector's own profile.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SelfProfileConfig {
    /// Whether the collector profiles itself into itself.
    pub enabled: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:4040".to_owned(),
            data: PathBuf::from("tepui-data"),
            public_url: String::new(),
            auth: AuthConfig::default(),
            tls: TlsConfig::default(),
            store: StoreConfig::default(),
            detect: DetectConfig::default(),
            hook: HookConfig::default(),
            self_profile: SelfProfileConfig::default(),
        }
    }
}

impl Default for DetectConfig {
    fn default() -> Self {
        Self {
            step: Duration::from_secs(60),
            hold: Duration::from_secs(300),
            keep: Duration::from_secs(300),
            min_cores: 0.5,
            functions: Sensitivity::default(),
            off: Vec::new(),
        }
    }
}

impl Default for SelfProfileConfig {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// Values given on the command line; they win over everything else.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `listen`.
    pub listen: Option<String>,
    /// `data`.
    pub data: Option<PathBuf>,
    /// `public_url`.
    pub public_url: Option<String>,
    /// `auth.token_file`.
    pub token_file: Option<PathBuf>,
    /// `auth.allow_unauthenticated`, when set.
    pub allow_unauthenticated: bool,
    /// `hook.url`.
    pub hook_url: Option<String>,
    /// `detect.step`.
    pub detect_step: Option<Duration>,
    /// `detect.for`.
    pub detect_for: Option<Duration>,
}

/// A key, its value, whether it can be used, and what it must be.
type Rule = (&'static str, String, bool, &'static str);

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
    /// Other machines could read and write without a token.
    #[error(
        "listen = {listen} can be reached from other machines and nothing would ask who calls; \
         listen on 127.0.0.1, or name a file of tokens (--token-file FILE), \
         or accept everybody (--allow-unauthenticated)"
    )]
    Unprotected {
        /// The address.
        listen: SocketAddr,
    },
}

impl Config {
    /// Reads and checks the configuration.
    ///
    /// `environment` holds all variables of the process.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if a source cannot be read, a key is unknown, a value
    /// cannot be used, or the port would be open to others without tokens.
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
        set(&mut self.listen, overrides.listen);
        set(&mut self.data, overrides.data);
        set(&mut self.public_url, overrides.public_url);
        set(&mut self.auth.token_file, overrides.token_file);
        set(&mut self.hook.url, overrides.hook_url);
        set(&mut self.detect.step, overrides.detect_step);
        set(&mut self.detect.hold, overrides.detect_for);
        self.auth.allow_unauthenticated |= overrides.allow_unauthenticated;
    }

    /// `listen` as an address.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Value`] if it is none.
    pub fn listen_address(&self) -> Result<SocketAddr, ConfigError> {
        let numeric = self.listen.replacen("localhost:", "127.0.0.1:", 1);
        numeric.parse().map_err(|_| ConfigError::Value {
            key: "listen",
            value: self.listen.clone(),
            reason: "it must be ADDRESS:PORT, such as 127.0.0.1:4040 or [::]:4040",
        })
    }

    /// The token file, if there is one.
    pub fn token_file(&self) -> Option<&Path> {
        let file = self.auth.token_file.as_path();
        (!file.as_os_str().is_empty()).then_some(file)
    }

    /// Where backups are put: `store.backup_folder`, or the folder beside the
    /// store's whose name ends in `-backups`.
    pub fn backup_folder(&self) -> PathBuf {
        if !self.store.backup_folder.as_os_str().is_empty() {
            return self.store.backup_folder.clone();
        }
        // Without a slash at the end.
        let data: PathBuf = self.data.components().collect();
        let mut folder = data.into_os_string();
        folder.push("-backups");
        PathBuf::from(folder)
    }

    /// Certificate and key files, if there are any.
    pub fn tls_files(&self) -> Option<(&Path, &Path)> {
        let (cert, key) = (&self.tls.cert_file, &self.tls.key_file);
        (!cert.as_os_str().is_empty()).then_some((cert, key))
    }

    /// What links begin with, without a slash at the end; `bound` is where the
    /// port was opened.
    pub fn public_url(&self, bound: SocketAddr) -> String {
        if !self.public_url.is_empty() {
            return self.public_url.trim_end_matches('/').to_owned();
        }
        let scheme = match self.tls_files() {
            Some(_) => "https",
            None => "http",
        };
        format!("{scheme}://{bound}")
    }

    /// What is allowed and still should be known, one sentence each.
    pub fn warnings(&self) -> Vec<&'static str> {
        let off_loopback = self
            .listen_address()
            .is_ok_and(|address| !address.ip().is_loopback());
        let mut warnings = Vec::new();
        if off_loopback && self.token_file().is_none() {
            warnings.push("everybody who reaches the port may read and write");
        }
        if off_loopback && self.token_file().is_some() && self.tls_files().is_none() {
            warnings.push("tokens travel unencrypted; set tls.cert_file and tls.key_file");
        }
        warnings
    }

    fn check(&self) -> Result<(), ConfigError> {
        let listen = self.listen_address()?;
        let detect = &self.detect;
        let rules: [Rule; 8] = [
            (
                "data",
                self.data.display().to_string(),
                !self.data.as_os_str().is_empty(),
                "it must name a folder",
            ),
            (
                "public_url",
                self.public_url.clone(),
                self.public_url.is_empty() || is_url(&self.public_url),
                "it must be empty, or begin with http:// or https:// and name a host",
            ),
            (
                "tls.key_file",
                self.tls.key_file.display().to_string(),
                self.tls.cert_file.as_os_str().is_empty()
                    == self.tls.key_file.as_os_str().is_empty(),
                "tls.cert_file and tls.key_file must be given together",
            ),
            (
                "detect.step",
                text(detect.step),
                detect.step.subsec_nanos() == 0
                    && (10..=600).contains(&detect.step.as_secs())
                    && 3_600_u64.checked_rem(detect.step.as_secs()) == Some(0),
                "it must be whole seconds that divide an hour, from 10s to 10m",
            ),
            (
                "detect.for",
                text(detect.hold),
                detect.hold >= detect.step && detect.hold <= 24 * HOUR,
                "it must be between detect.step and 24h",
            ),
            (
                "detect.keep",
                text(detect.keep),
                detect.keep <= 24 * HOUR,
                "it must be at most 24h",
            ),
            (
                "detect.min_cores",
                detect.min_cores.to_string(),
                detect.min_cores.is_finite() && detect.min_cores > 0.0,
                "it must be a number above 0",
            ),
            (
                "detect.off",
                detect.off.join(","),
                detect
                    .off
                    .iter()
                    .all(|word| FindingKind::named(word).is_some()),
                "it must list kinds of alerts, such as memory_leak or sibling_outlier",
            ),
        ];
        for (key, value, holds, reason) in rules.into_iter().chain(self.store.rules(&self.data)) {
            if !holds {
                return Err(ConfigError::Value { key, value, reason });
            }
        }
        if let Some((key, value, reason)) = self.hook.problem() {
            return Err(ConfigError::Value { key, value, reason });
        }
        let asks = self.token_file().is_some() || self.auth.allow_unauthenticated;
        if !listen.ip().is_loopback() && !asks {
            return Err(ConfigError::Unprotected { listen });
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ServiceKey;
    use crate::store::tier::Tier;

    const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/collector.example.toml");

    fn load(toml: &str, env: &[(&str, &str)], flags: Overrides) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("collector.toml");
        std::fs::write(&path, toml).unwrap();
        let env = env
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Config::load(Some(&path), env, flags)
    }

    #[test]
    fn the_example_equals_the_defaults() {
        let none = std::iter::empty();
        let example = Config::load(Some(Path::new(EXAMPLE)), none, Overrides::default()).unwrap();
        assert_eq!(example, Config::default());
    }

    /// Tables of receivers in `text`, which may be comments.
    fn receiver_tables(text: &str) -> String {
        let mut tables = String::new();
        let mut within = false;
        for line in text.lines() {
            let line = line.strip_prefix("# ").unwrap_or(line);
            let begins = line.starts_with("[[hook.receivers]]");
            within = begins || within && line.contains(" = ");
            if within {
                tables.push_str(line);
                tables.push('\n');
            }
        }
        tables
    }

    #[test]
    fn the_receivers_of_the_examples_can_be_used() {
        let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/README.md");
        for file in [EXAMPLE, readme] {
            let tables = receiver_tables(&std::fs::read_to_string(file).unwrap());
            let config = load(&tables, &[], Overrides::default()).unwrap();
            let kinds = config.hook.receivers.iter().map(|r| r.kind.unwrap());
            let expected = [
                ReceiverKind::Alertmanager,
                ReceiverKind::Webhook,
                ReceiverKind::Slack,
                ReceiverKind::PagerDuty,
                ReceiverKind::Command,
            ];
            assert_eq!(kinds.collect::<Vec<_>>(), expected, "{file}");
            let mut hook = config.hook;
            for receiver in &mut hook.receivers {
                // Files of secrets are not here.
                receiver.secret_file = PathBuf::new();
                if !receiver.url_file.as_os_str().is_empty() {
                    receiver.url_file = PathBuf::new();
                    receiver.url = "http://127.0.0.1:9/".to_owned().into();
                }
                receiver.routing_key_file = PathBuf::new();
            }
            crate::hook::Receivers::new(&hook).unwrap();
        }
    }

    #[test]
    fn the_example_names_every_key() {
        let example = std::fs::read_to_string(EXAMPLE).unwrap();
        for key in [
            "listen",
            "data",
            "public_url",
            "token_file",
            "allow_unauthenticated",
            "cert_file",
            "key_file",
            "retention",
            "retention_hours",
            "retention_days",
            "group_by",
            "max_memory_bytes",
            "max_disk_bytes",
            "backup_folder",
            "step",
            "for",
            "keep",
            "min_cores",
            "functions",
            "off",
            "url",
            "timeout",
            "enabled",
        ] {
            let line = format!("\n{key} = ");
            assert!(example.contains(&line), "{key}");
        }
    }

    #[test]
    fn later_layers_win() {
        let toml = "listen = \"127.0.0.1:1\"\n[detect]\nstep = \"10s\"\nfor = \"20s\"\n[store]\nretention = \"2d\"";
        let env = [
            ("TEPUI__COLLECTOR__LISTEN", "127.0.0.1:2"),
            ("TEPUI__COLLECTOR__STORE__MAX_MEMORY_BYTES", "134217728"),
            ("TEPUI__COLLECTOR__SELF_PROFILE__ENABLED", "false"),
            ("TEPUI__COLLECTOR__DETECT__FOR", "30s"),
            ("TEPUI__AGENT__CPU__RATE_HZ", "ignored"),
            ("TEPUI_COLLECTOR_PORT", "tcp://ignored"),
        ];
        let flags = Overrides {
            listen: Some("localhost:3".to_owned()),
            ..Overrides::default()
        };
        let config = load(toml, &env, flags).unwrap();
        assert_eq!(config.listen_address().unwrap().to_string(), "127.0.0.1:3");
        assert_eq!(config.detect.step, Duration::from_secs(10));
        assert_eq!(config.detect.hold, Duration::from_secs(30));
        assert_eq!(config.store.retention, 48 * HOUR);
        assert_eq!(config.store.max_memory_bytes, 128 << 20);
        assert!(!config.self_profile.enabled);
    }

    #[test]
    fn wrong_settings_are_refused_by_name() {
        for (toml, env, expected) in [
            ("port = 1", None, "port"),
            ("[nonsense]", None, "nonsense"),
            ("[store]\nkeep = \"1d\"", None, "keep"),
            ("", Some(("TEPUI__COLLECTOR__DETECT__STEPS", "1")), "steps"),
            ("listen = \"4040\"", None, "listen"),
            ("listen = \"example.org:4040\"", None, "listen"),
            ("data = \"\"", None, "data"),
            ("public_url = \"tepui.example\"", None, "public_url"),
            ("[tls]\ncert_file = \"a.pem\"", None, "together"),
            ("[store]\nretention = \"1m\"", None, "store.retention"),
            (
                "[[store.retention_overrides]]\nretention = \"1d\"",
                None,
                "store.retention_overrides = \"any/any\"",
            ),
            (
                "[[store.retention_overrides]]\nservice = \"a\"",
                None,
                "must give a retention",
            ),
            (
                "[[store.retention_overrides]]\nservice = \"a\"\nretention = \"1m\"",
                None,
                "between 1h",
            ),
            (
                "[[store.retention_overrides]]\nservice = \"a\"\nretention = \"9d\"\nretention_days = \"8d\"",
                None,
                "coarser rows",
            ),
            (
                "[[store.retention_overrides]]\nservice = \"a\"\nkeep = \"9d\"",
                None,
                "keep",
            ),
            (
                "[store]\nmax_memory_bytes = 1",
                None,
                "store.max_memory_bytes",
            ),
            ("[store]\nmax_disk_bytes = 1", None, "store.max_disk_bytes"),
            (
                "data = \"/d\"\n[store]\nbackup_folder = \"/d/b\"",
                None,
                "store.backup_folder",
            ),
            ("[detect]\nstep = \"7s\"", None, "detect.step"),
            ("[detect]\nstep = \"0s\"", None, "detect.step"),
            ("[detect]\nfor = \"10s\"", None, "detect.for"),
            ("[detect]\nmin_cores = 0", None, "detect.min_cores"),
            ("[detect]\nmin_cores = nan", None, "detect.min_cores"),
            ("[detect]\noff = [\"leaks\"]", None, "detect.off"),
            ("[hook]\nurl = \"localhost:9\"", None, "hook.url"),
            ("[hook]\ntimeout = \"0s\"", None, "hook.timeout"),
            ("[[hook.receivers]]\nkind = \"slack\"", None, "its name"),
            ("[[hook.receivers]]\nname = \"A b\"", None, "its name"),
            ("[[hook.receivers]]\nname = \"a\"", None, "its kind"),
            (
                "[[hook.receivers]]\nname = \"a\"\nkind = \"mail\"",
                None,
                "mail",
            ),
            (
                "[[hook.receivers]]\nname = \"a\"\nkind = \"slack\"",
                None,
                "url_file",
            ),
            (
                "[[hook.receivers]]\nname = \"a\"\nkind = \"slack\"\nurl = \"http://h\"\nurl_file = \"f\"",
                None,
                "not both",
            ),
            (
                "[[hook.receivers]]\nname = \"a\"\nkind = \"slack\"\nurl = \"http://h\"\nsecret = \"s\"",
                None,
                "a secret is",
            ),
            (
                "[[hook.receivers]]\nname = \"a\"\nkind = \"pagerduty\"",
                None,
                "routing_key",
            ),
            (
                "[[hook.receivers]]\nname = \"a\"\nkind = \"command\"",
                None,
                "command must",
            ),
            (
                "[[hook.receivers]]\nname = \"a\"\nkind = \"command\"\ncommand = [\"x\"]\nurl = \"http://h\"",
                None,
                "command must",
            ),
            (
                "[[hook.receivers]]\nname = \"a\"\nkind = \"slack\"\nurl = \"http://h\"\nmatch.pod = [\"x\"]",
                None,
                "pod",
            ),
            (
                "[hook]\nurl = \"http://h\"\n[[hook.receivers]]\nname = \"default\"\nkind = \"slack\"\nurl = \"http://h\"",
                None,
                "its own",
            ),
        ] {
            let error = load(toml, env.as_slice(), Overrides::default()).unwrap_err();
            let shown = proto::status::chain(&error);
            assert!(shown.contains(expected), "{toml} {env:?}: {shown}");
        }
    }

    #[test]
    fn receivers_are_read_and_their_secrets_not_shown() {
        let toml = r#"
            [[hook.receivers]]
            name = "pages"
            kind = "pagerduty"
            routing_key = "hush"
            match = { service = ["pay-.*", "logger"], severity = ["critical"] }
            [[hook.receivers]]
            name = "script"
            kind = "command"
            command = ["/bin/tell", "{}"]
            timeout = "30s"
            title = "{{ status }}"
        "#;
        let config = load(toml, &[], Overrides::default()).unwrap();
        let [pages, script] = &config.hook.receivers[..] else {
            panic!("{:?}", config.hook);
        };
        assert_eq!(pages.kind, Some(ReceiverKind::PagerDuty));
        assert_eq!(pages.routing_key.get(), "hush");
        assert_eq!(pages.matches.service.as_ref().unwrap().len(), 2);
        assert_eq!(pages.matches.kind, None);
        assert_eq!(script.command, ["/bin/tell", "{}"]);
        assert_eq!(script.timeout, Some(Duration::from_secs(30)));
        assert!(!format!("{config:?}").contains("hush"));
    }

    #[test]
    fn other_machines_are_served_only_with_tokens_or_on_demand() {
        let tokens = "[auth]\ntoken_file = \"tokens\"";
        let tls = "[auth]\ntoken_file = \"t\"\n[tls]\ncert_file = \"c\"\nkey_file = \"k\"";
        let open = "[auth]\nallow_unauthenticated = true";
        for (listen, toml, starts, warnings) in [
            ("127.0.0.1:0", "", true, 0),
            ("[::1]:0", "", true, 0),
            ("0.0.0.0:0", "", false, 0),
            ("[::]:0", "", false, 0),
            ("0.0.0.0:0", tokens, true, 1),
            ("0.0.0.0:0", tls, true, 0),
            ("0.0.0.0:0", open, true, 1),
        ] {
            let flags = Overrides {
                listen: Some(listen.to_owned()),
                ..Overrides::default()
            };
            match load(toml, &[], flags) {
                Ok(config) => {
                    assert!(starts, "{listen} {toml}");
                    assert_eq!(config.warnings().len(), warnings, "{listen} {toml}");
                }
                Err(error) => {
                    let shown = error.to_string();
                    assert!(!starts, "{listen} {toml}: {shown}");
                    for way in ["127.0.0.1", "--token-file", "--allow-unauthenticated"] {
                        assert!(shown.contains(way), "{shown}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_first_override_that_fits_says_how_long_a_service_is_kept() {
        let toml = "[store]\nretention = \"2d\"
            [[store.retention_overrides]]\nnamespace = \"prod\"\nservice = \"pay\"\nretention = \"30d\"
            [[store.retention_overrides]]\nnamespace = \"\"\nretention = \"3h\"
            [[store.retention_overrides]]\nservice = \"pay\"\nretention_hours = \"400d\"";
        let config = load(toml, &[], Overrides::default()).unwrap();
        let retention = config.store.retention();
        let days = |days: u32| 24 * HOUR * days;
        for (namespace, service, windows, hours) in [
            ("prod", "pay", days(30), days(90)),
            ("prod", "web", days(2), days(90)),
            ("", "pay", 3 * HOUR, days(90)),
            ("dev", "pay", days(2), days(400)),
        ] {
            let name = ServiceKey {
                tenant: "anonymous".to_owned(),
                namespace: namespace.to_owned(),
                service: service.to_owned(),
            };
            let horizons = retention.of(&name);
            assert_eq!(horizons.of(Tier::Minute), windows, "{namespace}/{service}");
            assert_eq!(horizons.of(Tier::Hour), hours, "{namespace}/{service}");
        }
        let longest = retention.longest();
        assert_eq!(longest.of(Tier::Window), days(30));
        assert_eq!(longest.of(Tier::Hour), days(400));
        assert_eq!(longest.of(Tier::Day), days(730));
    }

    #[test]
    fn backups_lie_beside_the_store_unless_told() {
        for (data, told, expected) in [
            ("tepui-data", "", "tepui-data-backups"),
            ("/var/lib/tepui/", "", "/var/lib/tepui-backups"),
            ("/var/lib/tepui", "/backups", "/backups"),
        ] {
            let mut config = Config {
                data: PathBuf::from(data),
                ..Config::default()
            };
            config.store.backup_folder = PathBuf::from(told);
            assert_eq!(config.backup_folder(), Path::new(expected), "{data} {told}");
        }
    }

    #[test]
    fn links_begin_with_the_public_address() {
        let bound: SocketAddr = "127.0.0.1:7".parse().unwrap();
        let mut config = Config::default();
        assert_eq!(config.public_url(bound), "http://127.0.0.1:7");
        config.tls.cert_file = PathBuf::from("c");
        assert_eq!(config.public_url(bound), "https://127.0.0.1:7");
        config.public_url = "https://tepui.example/".to_owned();
        assert_eq!(config.public_url(bound), "https://tepui.example");
    }
}
