//! The catalogue of wait primitives: which functions wait, which run only when
//! a wait succeeded, which belong to the language. A data file,
//! `catalogue.toml`, which explains the roles.
//!
//! A rule is a function's exact name or, with `*` at its end, the beginning of
//! names. Names are those that profiles show: pprof's for Go, demangled ones
//! for native code. Other languages have no rules and are judged by none.

use std::collections::BTreeMap;

use proto::stack::{Frame, FrameKind};
use rustc_hash::FxHashSet;
use serde::Deserialize;

/// The file that is part of the program.
const BUILT_IN: &str = include_str!("catalogue.toml");
/// Format of the file that this code reads.
const FORMAT: u32 = 1;

/// What a function is to the detectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Role {
    /// It waits, or asks whether waiting is over.
    pub waits: bool,
    /// Below a channel operation: it runs only when the wait succeeded.
    pub progresses: bool,
    /// It is an operation that can wait.
    pub is_channel: bool,
    /// It belongs to the language, not to the program.
    pub is_system: bool,
    /// It stands at the root of stacks and tells nothing.
    pub is_entry: bool,
    /// It interrupts others; its time counts for its caller.
    pub is_transparent: bool,
}

/// Roles of functions by language.
#[derive(Clone, Debug)]
pub struct Catalogue {
    version: u32,
    languages: BTreeMap<String, Language>,
}

/// Why a text is no catalogue.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// It is not TOML of the right shape.
    #[error("cannot read the catalogue of wait primitives")]
    Parse(#[from] toml::de::Error),
    /// It has another format.
    #[error("the catalogue has format {found}, this program reads {FORMAT}")]
    Format {
        /// What it has.
        found: u32,
    },
    /// A rule would match everything, or has `*` elsewhere than at its end.
    #[error("rule {rule:?} of {language} is neither a function's name nor the beginning of one")]
    Rule {
        /// The language.
        language: String,
        /// The rule.
        rule: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: u32,
    version: u32,
    language: BTreeMap<String, Lists>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Lists {
    wait: Vec<String>,
    channel: Vec<String>,
    progress: Vec<String>,
    system: Vec<String>,
    entry: Vec<String>,
    transparent: Vec<String>,
}

#[derive(Clone, Debug)]
struct Language {
    wait: Rules,
    channel: Rules,
    progress: Rules,
    system: Rules,
    entry: Rules,
    transparent: Rules,
}

/// Rules of one role.
#[derive(Clone, Debug, Default)]
struct Rules {
    exact: FxHashSet<String>,
    beginnings: Vec<String>,
}

impl Rules {
    fn new(language: &str, rules: Vec<String>) -> Result<Self, CatalogueError> {
        let mut built = Self::default();
        for rule in rules {
            let beginning = rule.strip_suffix('*');
            let name = beginning.unwrap_or(&rule);
            // The receiver of a Go method, `(*T)`, is part of a name.
            let is_name = !name.is_empty() && !name.replace("(*", "").contains('*');
            match (is_name, beginning) {
                (false, _) => {
                    return Err(CatalogueError::Rule {
                        language: language.to_owned(),
                        rule,
                    });
                }
                (true, Some(beginning)) => built.beginnings.push(beginning.to_owned()),
                (true, None) => {
                    built.exact.insert(rule);
                }
            }
        }
        Ok(built)
    }

    fn match_name(&self, name: &str) -> bool {
        let begins = |beginning: &String| name.starts_with(beginning.as_str());
        self.exact.contains(name) || self.beginnings.iter().any(begins)
    }
}

impl Language {
    fn new(name: &str, lists: Lists) -> Result<Self, CatalogueError> {
        Ok(Self {
            wait: Rules::new(name, lists.wait)?,
            channel: Rules::new(name, lists.channel)?,
            progress: Rules::new(name, lists.progress)?,
            system: Rules::new(name, lists.system)?,
            entry: Rules::new(name, lists.entry)?,
            transparent: Rules::new(name, lists.transparent)?,
        })
    }

    fn role(&self, name: &str) -> Role {
        let waits = self.wait.match_name(name);
        let is_channel = self.channel.match_name(name);
        let progresses = self.progress.match_name(name);
        let is_entry = self.entry.match_name(name);
        let is_transparent = self.transparent.match_name(name);
        let is_special = waits || is_channel || progresses || is_entry || is_transparent;
        Role {
            waits,
            progresses,
            is_channel,
            is_system: is_special || self.system.match_name(name),
            is_entry,
            is_transparent,
        }
    }
}

impl Catalogue {
    /// Reads the catalogue that is part of the program.
    ///
    /// # Errors
    ///
    /// [`CatalogueError`] if the file is wrong, which a test rules out.
    pub fn built_in() -> Result<Self, CatalogueError> {
        Self::parse(BUILT_IN)
    }

    /// Reads a catalogue.
    ///
    /// # Errors
    ///
    /// [`CatalogueError`] if `text` is none.
    pub fn parse(text: &str) -> Result<Self, CatalogueError> {
        let file: File = toml::from_str(text)?;
        if file.format != FORMAT {
            return Err(CatalogueError::Format { found: file.format });
        }
        let languages = file
            .language
            .into_iter()
            .map(|(name, lists)| Ok((name.clone(), Language::new(&name, lists)?)))
            .collect::<Result<_, CatalogueError>>()?;
        Ok(Self {
            version: file.version,
            languages,
        })
    }

    /// Version of the rules; it grows with every change of them.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// What `frame`'s function is. Time in the kernel belongs to the function
    /// that called it. A frame without a symbol is nobody's.
    pub fn role(&self, frame: &Frame) -> Role {
        self.role_of(frame.kind, &frame.function)
    }

    /// The role of code of `kind` in `function`.
    pub fn role_of(&self, kind: FrameKind, function: &str) -> Role {
        let of_nobody = Role {
            is_system: true,
            ..Role::default()
        };
        match kind {
            FrameKind::Kernel => Role {
                is_transparent: true,
                ..of_nobody
            },
            FrameKind::Unsymbolized | FrameKind::Synthetic => of_nobody,
            FrameKind::Native
            | FrameKind::Go
            | FrameKind::Python
            | FrameKind::Ruby
            | FrameKind::Jvm
            | FrameKind::Node => self
                .languages
                .get(kind.language())
                .map_or_else(Role::default, |language| {
                    language.role(plain_name(function))
                }),
        }
    }
}

/// `function` without what varies from build to build: a symbol version
/// (`sched_yield@@GLIBC_2.2.5`) and Rust's hash (`::h0123456789abcdef`).
pub fn plain_name(function: &str) -> &str {
    let name = match function.split_once('@') {
        Some((name, _)) if !name.is_empty() => name,
        _ => function,
    };
    match name.rsplit_once("::h") {
        Some((stem, hash)) if hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()) => {
            stem
        }
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(kind: FrameKind, function: &str) -> Role {
        Catalogue::built_in()
            .unwrap()
            .role(&Frame::named(kind, function))
    }

    #[test]
    fn the_built_in_file_is_read() {
        let catalogue = Catalogue::built_in().unwrap();
        assert!(catalogue.version() >= 1);
        let languages: Vec<&String> = catalogue.languages.keys().collect();
        assert_eq!(languages, ["go", "native"]);
    }

    #[test]
    fn leaves_of_real_spins_wait() {
        use FrameKind::{Go, Native};
        for (kind, function) in [
            // Go 1.19.
            (Go, "runtime.selectgo"),
            (Go, "runtime.sellock"),
            (Go, "runtime.selunlock"),
            (Go, "runtime.lock2"),
            (Go, "runtime.unlock2"),
            (Go, "runtime.chanrecv"),
            (Go, "runtime.empty"),
            (Go, "runtime.selectnbrecv"),
            (Go, "runtime.selectnbsend"),
            (Go, "runtime.full"),
            (Go, "time.Now"),
            (Go, "time.now"),
            (Go, "sync.(*Mutex).TryLock"),
            // Go 1.26.
            (Go, "runtime.(*mLockProfile).store"),
            (Go, "runtime.mutexSampleContention"),
            (Go, "time.runtimeNow"),
            (Go, "internal/sync.(*Mutex).TryLock"),
            (Go, "internal/runtime/atomic.(*Uint32).CompareAndSwap"),
            (Go, "runtime.procyieldAsm"),
            // C, C++, Rust.
            (Native, "__sched_yield"),
            (Native, "sched_yield@@GLIBC_2.2.5"),
            (Native, "pthread_mutex_trylock"),
            (Native, "clock_gettime@@GLIBC_2.17"),
            (Native, "__vdso_clock_gettime"),
            (Native, "epoll_wait"),
            (Native, "std::thread::yield_now::h0123456789abcdef"),
            (Native, "core::hint::spin_loop"),
            (Native, "crossbeam_utils::backoff::Backoff::snooze"),
            (Native, "std::sync::mpsc::Receiver<T>::try_recv"),
        ] {
            let role = role(kind, function);
            assert!(role.waits && role.is_system, "{function}: {role:?}");
        }
    }

    #[test]
    fn real_work_has_no_role() {
        use FrameKind::{Go, Native, Python};
        for (kind, function) in [
            (Go, "main.startSink"),
            (Go, "compress/flate.(*compressor).deflate"),
            (Go, "github.com/a/b.(*T).runtime.x"),
            (Native, "main"),
            (Native, "deflate_slow"),
            (Native, "logger::sink::run::h0123456789abcdef"),
            (Native, "runtime.selectgo"),
            (Python, "sched_yield"),
        ] {
            assert_eq!(role(kind, function), Role::default(), "{function}");
        }
    }

    #[test]
    fn a_frame_of_the_kernel_counts_for_its_caller() {
        let role = role(FrameKind::Kernel, "do_syscall_64");
        assert!(role.is_transparent && role.is_system && !role.waits);
    }

    #[test]
    fn wrong_files_are_refused() {
        let lists = "wait=[RULE]\nchannel=[]\nprogress=[]\nsystem=[]\nentry=[]\ntransparent=[]";
        let head = "format=1\nversion=1\n[language.go]\n";
        let with = |rule: &str| format!("{head}{}", lists.replace("RULE", rule));
        assert!(Catalogue::parse(&with("\"runtime.(*mutex).*\"")).is_ok());
        for (text, said) in [
            (with("\"*\""), "rule \"*\" of go"),
            (with("\"a*b\""), "rule \"a*b\" of go"),
            (with("\"\""), "rule \"\" of go"),
            (with("").replace("format=1", "format=2"), "format 2"),
            (with("").replace("wait", "weight"), "cannot read"),
            (head.to_owned(), "cannot read"),
        ] {
            let error = Catalogue::parse(&text).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
        }
    }

    #[test]
    fn what_varies_from_build_to_build_is_cut() {
        for (name, plain) in [
            ("a::b::h0123456789abcdef", "a::b"),
            ("a::hello", "a::hello"),
            ("sched_yield@@GLIBC_2.2.5", "sched_yield"),
            ("x@plt", "x"),
            ("main.f", "main.f"),
            ("@", "@"),
        ] {
            assert_eq!(plain_name(name), plain);
        }
    }
}
