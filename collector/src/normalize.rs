//! One name per function, whatever the build: what a compiler, a linker or a
//! running machine adds to a symbol's name is taken off before the name enters
//! a service's calling context tree. The tree then does not grow with every
//! deploy, and profiles of two versions compare function by function.
//!
//! Promises: what no rule knows stays byte for byte. A normal name is its own
//! normal form. A name grows by no more than [`MAX_GROWTH`] bytes. Time is
//! linear in the name: a rule goes over the text once and looks at most a
//! bounded way back or over bytes that no other look-back sees, and there are
//! at most four passes. Pure.
//!
//! Leaves to others: demangling, `Frame::system_name` (which must be emptied or
//! normalised too, or it undoes the work), files, and putting [`Taken`] into
//! the frame's fields.

use std::borrow::Cow;
use std::fmt;

use proto::stack::FrameKind;

mod address;
mod generics;
mod go;
mod jvm;
mod native;
mod node;

/// Most bytes that a name grows by, with room: V8's `* a` becomes `(anonymous) a`.
pub const MAX_GROWTH: usize = 16;
/// Most times that the rules are applied to a name. Every real name is normal
/// after one pass, which the next one proves.
const PASSES: usize = 4;

/// What may be done to a name. Each is off or on by itself; the sources are at
/// the functions that do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// `libc.so.6+0x1234` → `[libc.so.6]`, `0x7f12` → `[unknown]`, `main+0x1a` → `main`.
    Address,
    /// `a::b::h0123456789abcdef` → `a::b`, `a[4dd80272b5a2d1fc]::b` → `a::b`.
    RustHash,
    /// `{closure#3}` → `{{closure}}`, `{impl#3}` → `{impl}`.
    RustNumber,
    /// `f.llvm.123`, `f.cold`, `f(int) [clone .isra.0]` → `f`, `f(int)`.
    CompilerSuffix,
    /// `f[abi:v15007]()` → `f()`; `[abi:cxx11]` stays.
    AbiVersion,
    /// `Vec<T>::push` → `Vec<_>::push`.
    NativeGenerics,
    /// `{lambda(int)#2}` → `{lambda(int)}`, `'lambda0'` → `'lambda'`, `$_0` → `$_`.
    CppLambdaNumber,
    /// `main.F[go.shape.int]` → `main.F[...]`.
    GoGenerics,
    /// `main.run.func1.2` → `main.run.func#.#`.
    GoNumber,
    /// `a.org/m/v2/p.F` → `a.org/m/p.F`, `app/vendor/a.org/m.F` → `a.org/m.F`.
    GoPath,
    /// `W$$Lambda$14/0x0000000800c03000` → `W$$Lambda`.
    JvmHidden,
    /// `$Proxy7` → `$Proxy`, `GeneratedMethodAccessor12` → `GeneratedMethodAccessor`.
    JvmGenerated,
    /// `lambda$main$0` → `lambda$main`.
    JvmLambdaNumber,
    /// `LazyCompile:*run`, `JS:~run` → `run`.
    NodeTier,
    /// `run /app/a.js:12:3` → `run /app/a.js`.
    NodePosition,
    /// `#<Class:0x000055c8a1b2>#call` → `#<Class>#call`.
    RubyAddress,
}

impl Rule {
    /// Every rule with its name in files and metrics. Its place is its bit on
    /// disk: rules are added at the end and never removed.
    pub const ALL: [(Self, &'static str); 16] = [
        (Self::Address, "address"),
        (Self::RustHash, "rust_hash"),
        (Self::RustNumber, "rust_number"),
        (Self::CompilerSuffix, "compiler_suffix"),
        (Self::AbiVersion, "abi_version"),
        (Self::NativeGenerics, "native_generics"),
        (Self::CppLambdaNumber, "cpp_lambda_number"),
        (Self::GoGenerics, "go_generics"),
        (Self::GoNumber, "go_number"),
        (Self::GoPath, "go_path"),
        (Self::JvmHidden, "jvm_hidden"),
        (Self::JvmGenerated, "jvm_generated"),
        (Self::JvmLambdaNumber, "jvm_lambda_number"),
        (Self::NodeTier, "node_tier"),
        (Self::NodePosition, "node_position"),
        (Self::RubyAddress, "ruby_address"),
    ];

    /// The rule's name in files and metrics.
    pub fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(rule, _)| *rule == self)
            .map_or("", |(_, name)| name)
    }

    /// The rule called `name`, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(_, known)| *known == name)
            .map(|(rule, _)| *rule)
    }

    /// The rule's bit in a [`Rules`].
    const fn bit(self) -> u32 {
        1 << (self as u32)
    }
}

/// A set of rules: those to apply, or those that changed a name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rules(u32);

impl Rules {
    /// No rule.
    pub const NONE: Self = Self(0);
    /// Every rule.
    pub const EVERY: Self = Self((1 << Rule::ALL.len()) - 1);
    /// All but what merges functions that a language's own tools show apart
    /// (numbers of Go's, C++'s and javac's closures, versions of Go modules)
    /// or says less than they do (type arguments of native code).
    pub const DEFAULT: Self = Self::EVERY
        .without(Rule::NativeGenerics)
        .without(Rule::CppLambdaNumber)
        .without(Rule::GoNumber)
        .without(Rule::GoPath)
        .without(Rule::JvmLambdaNumber);

    /// These and `rule`.
    #[must_use]
    pub const fn with(self, rule: Rule) -> Self {
        Self(self.0 | rule.bit())
    }

    /// These but `rule`.
    #[must_use]
    pub const fn without(self, rule: Rule) -> Self {
        Self(self.0 & !rule.bit())
    }

    /// Whether `rule` is one of them.
    pub const fn contains(self, rule: Rule) -> bool {
        self.0 & rule.bit() != 0
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The rules, in the order of [`Rule::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Rule> {
        let all = Rule::ALL.into_iter().map(|(rule, _)| rule);
        all.filter(move |rule| self.contains(*rule))
    }

    /// The set on disk.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// The set that [`bits`](Self::bits) gave; none if a bit is no rule's.
    pub const fn from_bits(bits: u32) -> Option<Self> {
        if bits & !Self::EVERY.0 == 0 {
            Some(Self(bits))
        } else {
            None
        }
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl FromIterator<Rule> for Rules {
    fn from_iter<I: IntoIterator<Item = Rule>>(rules: I) -> Self {
        rules.into_iter().fold(Self::NONE, Self::with)
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(Rule::name)).finish()
    }
}

/// What a name held that belongs into another field of its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// An offset in the module that is now the name; for `file_offset` where that is 0.
    ModuleOffset(u64),
    /// An offset in the function that is now the name.
    FunctionOffset(u64),
    /// An address in the process's memory.
    Address(u64),
    /// The line where the function begins; for `start_line` where that is 0.
    StartLine(u32),
}

/// A name in its normal form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Normalized<'n> {
    /// The name; borrowed when nothing changed.
    pub name: Cow<'n, str>,
    /// What changed it.
    pub applied: Rules,
    /// What was in the name and is a frame's own field.
    pub taken: Option<Taken>,
}

/// Returns the normal form under `rules` of a function's `name` in code of `kind`.
///
/// A text that the rules still change in the last of `PASSES` passes is a name of
/// nothing; it stays as it was. So a normal name is its own normal form whatever
/// the rules do: either a pass leaves it alone, or it does not settle this time
/// either.
pub fn normalize(kind: FrameKind, name: &str, rules: Rules) -> Normalized<'_> {
    let mut work = Work {
        name: Cow::Borrowed(name),
        applied: Rules::NONE,
        rules,
        taken: None,
    };
    for _ in 0..PASSES {
        if !work.pass(kind) {
            return Normalized {
                name: work.name,
                applied: work.applied,
                taken: work.taken,
            };
        }
    }
    Normalized {
        name: Cow::Borrowed(name),
        applied: Rules::NONE,
        taken: None,
    }
}

/// A name on its way.
struct Work<'n> {
    name: Cow<'n, str>,
    applied: Rules,
    rules: Rules,
    taken: Option<Taken>,
}

impl Work<'_> {
    /// Applies the rules for `kind` once; whether any changed the name.
    fn pass(&mut self, kind: FrameKind) -> bool {
        // No short circuit: every rule has its turn.
        match kind {
            // A perf map does not say that its names are a Java machine's.
            FrameKind::Native => self.address(address::of_symbol) | self.native() | self.jvm(),
            FrameKind::Kernel => self.address(address::of_symbol) | self.native(),
            FrameKind::Unsymbolized => self.address(address::of_module),
            FrameKind::Go => self.address(address::alone) | self.go(),
            FrameKind::Jvm => self.address(address::alone) | self.jvm(),
            FrameKind::Node => self.address(address::alone) | self.node(),
            FrameKind::Ruby => {
                self.address(address::alone)
                    | self.edit(Rule::RubyAddress, |c| c == ':', address::of_class)
            }
            // `<lambda>` and `<listcomp>` have no numbers.
            FrameKind::Python => self.address(address::alone),
            // Already made for people.
            FrameKind::Synthetic => false,
        }
    }

    fn native(&mut self) -> bool {
        self.change(Rule::CompilerSuffix, native::without_suffixes)
            | self.change(Rule::RustHash, native::without_hash)
            | self.edit(Rule::RustHash, |c| c == '[', native::crate_hash)
            | self.edit(Rule::RustNumber, |c| matches!(c, '{' | '#'), native::number)
            | self.edit(Rule::AbiVersion, |c| c == '[', native::abi_version)
            | self.edit(
                Rule::CppLambdaNumber,
                |c| c == '#' || c.is_ascii_digit(),
                native::lambda_number,
            )
            | self.change(Rule::NativeGenerics, generics::fold)
    }

    fn go(&mut self) -> bool {
        self.change(Rule::GoGenerics, go::fold_generics)
            | self.change(Rule::GoPath, go::without_versions)
            | self.change(Rule::GoNumber, go::without_numbers)
    }

    fn jvm(&mut self) -> bool {
        self.edit(
            Rule::JvmHidden,
            |c| matches!(c, '$' | '/' | '.' | '+'),
            jvm::hidden,
        ) | self.edit(
            Rule::JvmGenerated,
            |c| c == '$' || c.is_ascii_digit(),
            jvm::generated,
        ) | self.edit(Rule::JvmLambdaNumber, |c| c == '$', jvm::lambda_number)
    }

    fn node(&mut self) -> bool {
        let tier = self.change(Rule::NodeTier, node::without_tier);
        let found = node::position(&self.name).map(|(name, line)| (name, Taken::StartLine(line)));
        tier | self.take(Rule::NodePosition, found)
    }

    fn address(&mut self, find: fn(&str) -> Option<(String, Taken)>) -> bool {
        let found = find(&self.name);
        self.take(Rule::Address, found)
    }

    fn take(&mut self, rule: Rule, found: Option<(String, Taken)>) -> bool {
        let Some((name, taken)) = found else {
            return false;
        };
        let is_changed = self.change(rule, |_| Some(name));
        if is_changed {
            self.taken.get_or_insert(taken);
        }
        is_changed
    }

    fn edit(
        &mut self,
        rule: Rule,
        begins: fn(char) -> bool,
        edit: fn(&str, &str) -> Option<Edit>,
    ) -> bool {
        self.change(rule, |name| rewrite(name, begins, edit))
    }

    fn change(&mut self, rule: Rule, change: impl FnOnce(&str) -> Option<String>) -> bool {
        if !self.rules.contains(rule) {
            return false;
        }
        match change(&self.name) {
            Some(changed) if changed != *self.name => {
                self.name = Cow::Owned(changed);
                self.applied = self.applied.with(rule);
                true
            }
            _ => false,
        }
    }
}

/// Bytes to take off at a place of a name, and what to put there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Edit {
    cut: usize,
    put: &'static str,
}

impl Edit {
    /// Takes off `cut` bytes.
    const fn cut(cut: usize) -> Option<Self> {
        Some(Self { cut, put: "" })
    }
}

/// Goes over `name` once and does what `edit` says at the characters that
/// `begins` names, given what is before the place, unchanged, and the rest.
/// Returns none if that is nothing.
fn rewrite(
    name: &str,
    begins: fn(char) -> bool,
    edit: impl Fn(&str, &str) -> Option<Edit>,
) -> Option<String> {
    let mut out = String::new();
    let (mut done, mut at) = (0, 0);
    while let Some(ahead) = name.get(at..)?.find(begins) {
        at += ahead;
        let (before, rest) = name.split_at_checked(at)?;
        match edit(before, rest) {
            Some(Edit { cut, put }) if cut > 0 => {
                out.push_str(name.get(done..at)?);
                out.push_str(put);
                at += cut;
                done = at;
            }
            _ => at += rest.chars().next()?.len_utf8(),
        }
    }
    out.push_str(name.get(done..)?);
    (done > 0).then_some(out)
}

/// Bytes at the beginning of `text`, at most `limit`, for which `is` holds.
fn run(text: &str, limit: usize, is: fn(&u8) -> bool) -> usize {
    text.bytes().take(limit).take_while(is).count()
}

/// Length of the decimal number, of no more than 20 digits, that `text` begins with.
fn digits(text: &str) -> Option<usize> {
    Some(run(text, 21, u8::is_ascii_digit)).filter(|length| (1..=20).contains(length))
}

/// Length of the hexadecimal number of `least` to 16 digits in small letters
/// that `text` begins with.
fn hex(text: &str, least: usize) -> Option<usize> {
    let length = run(text, 17, |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (least..=16).contains(&length).then_some(length)
}

/// Whether `character` can be part of an identifier.
fn is_word(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '_' | '$')
}

#[cfg(test)]
mod tests;
