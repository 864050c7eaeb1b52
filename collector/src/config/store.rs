//! What is kept, for how long, and how much of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::{HOUR, Rule, text};
use crate::normalize::{self, Rules};
use crate::retention::{Horizons, Override, Retention};

/// Smallest memory ceiling: one busy service's tree must fit its share.
const MIN_MEMORY_BYTES: u64 = 64 << 20;
/// Smallest disk ceiling: a log, and some hours of windows.
const MIN_DISK_BYTES: u64 = 1 << 30;
/// Least and most nodes of a tree: a large program has some hundred thousand.
const MIN_TREE_NODES: u64 = 10_000;
const MAX_TREE_NODES: u64 = 1 << 24;

/// What is kept.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// How long windows, minutes of services and feature rows are kept.
    #[serde(with = "humantime_serde")]
    pub retention: Duration,
    /// How long hours are kept; never shorter than `retention`.
    #[serde(with = "humantime_serde")]
    pub retention_hours: Duration,
    /// How long days are kept; never shorter than `retention_hours`.
    #[serde(with = "humantime_serde")]
    pub retention_days: Duration,
    /// Services that are kept longer or shorter; the first that fits one holds.
    pub retention_overrides: Vec<RetentionOverride>,
    /// Labels whose values make groups of series with sums of their own, so that
    /// `{version="1.8"}` is answered like the whole service.
    pub group_by: Vec<String>,
    /// Ceiling of what grows with data in memory: blocks, write buffers, trees,
    /// dictionaries of streams, waiting windows, queries.
    pub max_memory_bytes: u64,
    /// Ceiling of the folder's size; 0 for none. The oldest windows go first.
    pub max_disk_bytes: u64,
    /// Nodes of one service's call tree; what a stack has beyond them ends in
    /// `[other]`. A full tree is followed by a new one, at most once a day.
    pub max_tree_nodes: u64,
    /// Rules by which names of functions are normalised as they come in, see
    /// [`normalize::Rule::ALL`].
    pub symbol_rules: Vec<String>,
    /// Folder of backups; empty for one beside the folder of the store, see
    /// [`super::Config::backup_folder`].
    pub backup_folder: PathBuf,
}

/// How long what some services sent is kept; what is not given is as for others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionOverride {
    /// Services of this namespace, `""` for those of none; of any when absent.
    pub namespace: Option<String>,
    /// Services of this name; of any when absent.
    pub service: Option<String>,
    /// As [`StoreConfig::retention`].
    #[serde(with = "humantime_serde")]
    pub retention: Option<Duration>,
    /// As [`StoreConfig::retention_hours`].
    #[serde(with = "humantime_serde")]
    pub retention_hours: Option<Duration>,
    /// As [`StoreConfig::retention_days`].
    #[serde(with = "humantime_serde")]
    pub retention_days: Option<Duration>,
}

impl StoreConfig {
    /// What names are normalised by; `None` if a rule is not known.
    pub fn normalization(&self) -> Option<Rules> {
        let rules = self.symbol_rules.iter();
        let mut rules = rules.map(|name| normalize::Rule::from_name(name));
        rules.try_fold(Rules::NONE, |rules, rule| rule.map(|rule| rules.with(rule)))
    }

    /// How long what each service sent is kept.
    pub fn retention(&self) -> Retention {
        let others = Horizons {
            windows: self.retention,
            hours: self.retention_hours,
            days: self.retention_days,
        };
        let overrides = self.retention_overrides.iter();
        Retention {
            others,
            overrides: overrides
                .map(|o| Override {
                    namespace: o.namespace.clone(),
                    service: o.service.clone(),
                    horizons: Horizons {
                        windows: o.retention.unwrap_or(others.windows),
                        hours: o.retention_hours.unwrap_or(others.hours),
                        days: o.retention_days.unwrap_or(others.days),
                    },
                })
                .collect(),
        }
    }

    /// What must hold of what is set.
    pub(super) fn rules(&self, data: &Path) -> Vec<Rule> {
        let wrong_override = self.retention_overrides.iter().find_map(wrong);
        let (shown, reason) = wrong_override.clone().unwrap_or_default();
        let rules: [Rule; 9] = [
            (
                "store.retention",
                text(self.retention),
                self.retention >= HOUR && self.retention <= 10 * 366 * 24 * HOUR,
                "it must be between 1h and 10 years",
            ),
            (
                "store.retention_hours",
                text(self.retention_hours),
                self.retention_hours >= self.retention
                    && self.retention_hours <= 10 * 366 * 24 * HOUR,
                "it must be between store.retention and 10 years",
            ),
            (
                "store.retention_days",
                text(self.retention_days),
                self.retention_days >= self.retention_hours
                    && self.retention_days <= 100 * 366 * 24 * HOUR,
                "it must be between store.retention_hours and 100 years",
            ),
            (
                "store.group_by",
                self.group_by.join(","),
                self.group_by.len() <= 8,
                "it must name at most 8 labels",
            ),
            (
                "store.max_memory_bytes",
                self.max_memory_bytes.to_string(),
                self.max_memory_bytes >= MIN_MEMORY_BYTES,
                "it must be at least 67108864",
            ),
            (
                "store.max_disk_bytes",
                self.max_disk_bytes.to_string(),
                self.max_disk_bytes == 0 || self.max_disk_bytes >= MIN_DISK_BYTES,
                "it must be 0, or at least 1073741824",
            ),
            (
                "store.max_tree_nodes",
                self.max_tree_nodes.to_string(),
                (MIN_TREE_NODES..=MAX_TREE_NODES).contains(&self.max_tree_nodes),
                "it must be between 10000 and 16777216",
            ),
            (
                "store.symbol_rules",
                self.symbol_rules.join(","),
                self.normalization().is_some(),
                "it may hold address, rust_hash, rust_number, compiler_suffix, abi_version, native_generics, cpp_lambda_number, go_generics, go_number, go_path, jvm_hidden, jvm_generated, jvm_lambda_number, node_tier, node_position and ruby_address",
            ),
            (
                "store.backup_folder",
                self.backup_folder.display().to_string(),
                !self.backup_folder.starts_with(data),
                "it must lie outside of the folder data",
            ),
        ];
        let overrides = (
            "store.retention_overrides",
            shown,
            wrong_override.is_none(),
            reason,
        );
        rules.into_iter().chain([overrides]).collect()
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            retention: 14 * 24 * HOUR,
            retention_hours: 90 * 24 * HOUR,
            retention_days: 2 * 365 * 24 * HOUR,
            retention_overrides: Vec::new(),
            group_by: ["version", "zone", "node"].map(str::to_owned).to_vec(),
            max_memory_bytes: 512 << 20,
            max_disk_bytes: 0,
            max_tree_nodes: 1 << 19,
            symbol_rules: names_of(Rules::DEFAULT.iter()).collect(),
            backup_folder: PathBuf::new(),
        }
    }
}

/// What rules are called.
fn names_of(rules: impl Iterator<Item = normalize::Rule>) -> impl Iterator<Item = String> {
    rules.map(|rule| rule.name().to_owned())
}

/// An override that cannot be used, and why.
fn wrong(o: &RetentionOverride) -> Option<(String, &'static str)> {
    let name = |part: &Option<String>| part.clone().unwrap_or_else(|| "any".to_owned());
    let shown = format!("{}/{}", name(&o.namespace), name(&o.service));
    if o.namespace.is_none() && o.service.is_none() {
        return Some((shown, "each must name a namespace, a service or both"));
    }
    let given = [o.retention, o.retention_hours, o.retention_days];
    let given: Vec<Duration> = given.into_iter().flatten().collect();
    let is_in_range = |length: &Duration| (HOUR..=100 * 366 * 24 * HOUR).contains(length);
    if given.is_empty() {
        return Some((shown, "each must give a retention"));
    }
    match given.iter().all(is_in_range) && given.is_sorted() {
        true => None,
        false => Some((
            shown,
            "each must be between 1h and 100 years, and coarser rows not shorter than finer ones",
        )),
    }
}
