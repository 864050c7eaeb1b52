//! Words and numbers for people: values with a unit, shares, safe names, colour.

use std::borrow::Cow;
use std::time::Duration;

use anstyle::Style as Ansi;
use proto::value_type::{ProfileType, Temporality};
use proto::window::{UnixNanos, Window};

use super::Style;
use crate::answer::{Coverage, ProfileAnswer};

/// A unit to show values in: its size in the value's own unit, and its name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Unit {
    size: f64,
    name: &'static str,
}

const TIME: [Unit; 5] = [
    Unit {
        size: 1.0,
        name: "ns",
    },
    Unit {
        size: 1e3,
        name: "µs",
    },
    Unit {
        size: 1e6,
        name: "ms",
    },
    Unit {
        size: 1e9,
        name: "s",
    },
    Unit {
        size: 3.6e12,
        name: "h",
    },
];
/// Powers of 1024 under pprof's names.
const BYTES: [Unit; 6] = [
    Unit {
        size: 1.0,
        name: "B",
    },
    Unit {
        size: 1024.0,
        name: "kB",
    },
    Unit {
        size: 1_048_576.0,
        name: "MB",
    },
    Unit {
        size: 1_073_741_824.0,
        name: "GB",
    },
    Unit {
        size: 1_099_511_627_776.0,
        name: "TB",
    },
    Unit {
        size: 1_125_899_906_842_624.0,
        name: "PB",
    },
];
const COUNT: [Unit; 4] = [
    Unit {
        size: 1.0,
        name: "",
    },
    Unit {
        size: 1e6,
        name: "M",
    },
    Unit {
        size: 1e9,
        name: "G",
    },
    Unit {
        size: 1e12,
        name: "T",
    },
];

impl Unit {
    /// The largest unit of `profile_type` in which `value` is at least one.
    pub(super) fn for_value(profile_type: &ProfileType, value: i128) -> Self {
        Self::for_size(profile_type, approximate(value).abs())
    }

    fn for_size(profile_type: &ProfileType, size: f64) -> Self {
        let units: &[Self] = match profile_type.sample().unit() {
            "nanoseconds" => &TIME,
            "bytes" => &BYTES,
            _ => &COUNT,
        };
        let smallest = Self {
            size: 1.0,
            name: "",
        };
        let fitting = units.iter().rev().find(|unit| size >= unit.size);
        *fitting.or(units.first()).unwrap_or(&smallest)
    }

    /// `value` in this unit, with two digits after the point unless all zero.
    pub(super) fn show(self, value: i128) -> String {
        if value == 0 {
            return "0".to_owned();
        }
        if self.size <= 1.0 {
            return format!("{value}{}", self.name);
        }
        self.show_float(approximate(value))
    }

    fn show_float(self, value: f64) -> String {
        let number = format!("{:.2}", value / self.size);
        let number = number.strip_suffix(".00").unwrap_or(&number);
        match number {
            "0" | "-0" => "0".to_owned(),
            _ => format!("{number}{}", self.name),
        }
    }
}

/// As [`show`], of a value that need not be whole.
pub(super) fn show_float(profile_type: &ProfileType, value: f64) -> String {
    Unit::for_size(profile_type, value.abs()).show_float(value)
}

/// `value` in the unit that suits it.
pub(super) fn show(profile_type: &ProfileType, value: i128) -> String {
    Unit::for_value(profile_type, value).show(value)
}

/// The nearest float; values past 2^53 lose their last digits.
pub(super) fn approximate(value: i128) -> f64 {
    value as f64
}

/// `value ÷ total`, 0 when the total is.
pub(super) fn ratio(value: i128, total: i128) -> f64 {
    if total == 0 {
        return 0.0;
    }
    approximate(value) / approximate(total)
}

/// `value` as a share of `total` with `digits` after the point.
pub(super) fn percent(value: i128, total: i128, digits: usize) -> String {
    let text = format!("{:.digits$}", ratio(value, total) * 100.0);
    match text.parse::<f64>() {
        Ok(100.0) => "100%".to_owned(),
        Ok(0.0) if value == 0 => "0%".to_owned(),
        _ => format!("{text}%"),
    }
}

/// Cores that `value` nanoseconds of CPU keep busy in the observed time;
/// `None` when the type is no CPU time or no time was observed.
pub(super) fn cores(answer: &ProfileAnswer, value: i128) -> Option<f64> {
    cores_in(&answer.profile_type, answer.coverage.observed, value)
}

/// As [`cores`], of a profile type and an observed time.
pub(super) fn cores_in(profile_type: &ProfileType, observed: Duration, value: i128) -> Option<f64> {
    let sample = profile_type.sample();
    let observed = observed.as_secs_f64();
    (sample.kind() == "cpu" && sample.unit() == "nanoseconds" && observed > 0.0)
        .then(|| approximate(value) / 1e9 / observed)
}

/// The sample type's name, marked when values are averages.
pub(super) fn type_label(answer: &ProfileAnswer) -> String {
    label_of(&answer.profile_type, answer.temporality)
}

/// As [`type_label`], of a profile type and how its values behave.
pub(super) fn label_of(profile_type: &ProfileType, temporality: Temporality) -> String {
    let kind = profile_type.sample().kind();
    match temporality {
        Temporality::Delta => kind.to_owned(),
        Temporality::Gauge => format!("{kind} (average over time)"),
    }
}

/// `time` in RFC 3339, UTC.
pub(super) fn rfc3339(time: UnixNanos) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(time.get()))
        .map_or_else(|_| time.to_string(), |stamp| stamp.to_string())
}

/// `length` to the second, or to the millisecond below a second.
pub(super) fn length(length: Duration) -> String {
    let rounded = if length < Duration::from_secs(1) {
        Duration::from_millis(u64::try_from(length.as_millis()).unwrap_or(u64::MAX))
    } else {
        Duration::from_secs(length.as_secs())
    };
    humantime::format_duration(rounded).to_string()
}

/// Start, end and length of `window`; an end on the same day has no date.
pub(super) fn range(window: &Window) -> String {
    let stamp = |time: UnixNanos| {
        jiff::Timestamp::from_nanosecond(i128::from(time.get())).map_or_else(
            |_| time.to_string(),
            |stamp| stamp.strftime("%Y-%m-%d %H:%M:%S").to_string(),
        )
    };
    let (start, end) = (stamp(window.start()), stamp(window.end()));
    let end = match (start.split_once(' '), end.split_once(' ')) {
        (Some((first, _)), Some((last, time))) if first == last => time,
        _ => &end,
    };
    format!("{start} to {end} UTC ({})", length(window.duration()))
}

/// What an answer rests on and lacks, one line each.
pub(super) fn coverage_lines(coverage: &Coverage) -> Vec<String> {
    let plural = |count: u64, noun: &str| match count {
        1 => format!("1 {noun}"),
        _ if noun == "series" => format!("{count} series"),
        _ => format!("{count} {noun}s"),
    };
    let lost = match coverage.lost_samples {
        0 => String::new(),
        lost => format!(" ({lost} lost)"),
    };
    let mut basis = format!(
        "{} of {}, {}{lost}",
        plural(coverage.windows, "window"),
        plural(coverage.series, "series"),
        plural(coverage.samples, "sample"),
    );
    if !coverage.observed.is_zero() {
        basis = format!("{basis}, observed {}", length(coverage.observed));
    }
    let mut lines = vec![basis];
    if coverage.pruned_nodes > 0 {
        let nodes = plural(coverage.pruned_nodes, "node");
        lines.push(format!("{nodes} folded into \"other\""));
    }
    lines.extend(
        coverage
            .notes
            .iter()
            .map(|note| printable(note).into_owned()),
    );
    lines
}

/// Whether `c` could move the cursor, hide text or change its direction.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

/// `text` with characters that a terminal or an XML reader would obey or refuse
/// replaced by `U+FFFD`.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    if text.chars().any(is_unsafe) {
        Cow::Owned(
            text.chars()
                .map(|c| if is_unsafe(c) { '\u{fffd}' } else { c })
                .collect(),
        )
    } else {
        Cow::Borrowed(text)
    }
}

/// Columns that `c` takes in a terminal.
fn char_width(c: char) -> usize {
    match u32::from(c) {
        0x300..=0x36f | 0x200b..=0x200d | 0xfe00..=0xfe0f => 0,
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1faff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// Columns that `text` takes in a terminal.
pub(super) fn width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

/// The longest run from one end of `chars` that fits `columns`.
fn fitting(chars: impl Iterator<Item = char>, columns: usize) -> Vec<char> {
    let mut used = 0;
    chars
        .take_while(|&c| {
            used += char_width(c);
            used <= columns
        })
        .collect()
}

/// `text` cut in its middle so that it takes at most `columns`; the end, where
/// a function's own name is, keeps the larger part.
pub(super) fn cut(text: &str, columns: usize) -> Cow<'_, str> {
    if width(text) <= columns {
        return Cow::Borrowed(text);
    }
    if columns <= 1 {
        return Cow::Borrowed(if columns == 0 { "" } else { "…" });
    }
    let head = (columns - 1) / 3;
    let mut cut: String = fitting(text.chars(), head).into_iter().collect();
    cut.push('…');
    cut.extend(fitting(text.chars().rev(), columns - 1 - head).iter().rev());
    Cow::Owned(cut)
}

/// `name` without the folders of its package, as in `net/http.(*conn).serve`,
/// when it would not fit otherwise; cut when that is not enough.
pub(super) fn function(name: &str, columns: usize) -> String {
    let name = printable(name);
    if width(&name) <= columns {
        return name.into_owned();
    }
    let path = name.find(['(', '<', '[', ' ']).unwrap_or(name.len());
    let folders = name.get(..path).and_then(|path| path.rfind('/'));
    let short = folders.and_then(|at| name.get(at + 1..)).unwrap_or(&name);
    cut(short, columns).into_owned()
}

/// `file:line` shortened to the file's name when `columns` ask for it, or
/// nothing when there is no file or no room.
pub(super) fn place(file: &str, line: u32, columns: usize) -> Option<String> {
    if file.is_empty() {
        return None;
    }
    let file = printable(file);
    let base = file.rsplit(['/', '\\']).next().unwrap_or(&file);
    [&*file, base]
        .into_iter()
        .map(|file| match line {
            0 => file.to_owned(),
            line => format!("{file}:{line}"),
        })
        .find(|text| width(text) <= columns)
}

impl Style {
    /// `text` in `ansi`, or plain.
    pub(super) fn paint(&self, ansi: Ansi, text: &str) -> String {
        if self.color && !text.is_empty() {
            format!("{ansi}{text}{ansi:#}")
        } else {
            text.to_owned()
        }
    }

    /// A line of a head: a dimmed label and what it says.
    pub(super) fn field(&self, label: &str, text: &str) -> String {
        let room = self.columns().unwrap_or(usize::MAX);
        let label = cut(label, room);
        let text = printable(text);
        let text = cut(&text, room.saturating_sub(width(&label)));
        format!("{}{text}\n", self.paint(Ansi::new().dimmed(), &label))
    }

    /// Columns that a line may take.
    pub(super) fn columns(&self) -> Option<usize> {
        self.width.map(usize::from)
    }

    /// `text` cut to the terminal's width, in `ansi`.
    pub(super) fn line(&self, ansi: Ansi, text: &str) -> String {
        let text = printable(text);
        let text = cut(&text, self.columns().unwrap_or(usize::MAX));
        let mut line = self.paint(ansi, &text);
        line.push('\n');
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_as_pprof_shows_them() {
        let heap = "memory:inuse_space:bytes:space:bytes".parse().unwrap();
        let goroutines = "goroutine:goroutine:count:goroutine:count".parse().unwrap();
        let cpu = ProfileType::cpu();
        for (profile_type, value, expected) in [
            (&cpu, 0, "0"),
            (&cpu, 999, "999ns"),
            (&cpu, 1_500, "1.50µs"),
            (&cpu, 10_000_000, "10ms"),
            (&cpu, 36_499_999_999, "36.50s"),
            (&cpu, -36_000_000_000, "-36s"),
            (&cpu, 3_600_000_000_000, "1h"),
            (&heap, 1023, "1023B"),
            (&heap, 1536, "1.50kB"),
            (&heap, 5 << 20, "5MB"),
            (&heap, i128::MAX, "151115727451828646838272PB"),
            (&goroutines, 999_999, "999999"),
            (&goroutines, 2_500_000, "2.50M"),
        ] {
            assert_eq!(show(profile_type, value), expected);
        }
    }

    #[test]
    fn shares_are_rounded_and_whole_ones_are_short() {
        for (value, total, expected) in [
            (1, 3, "33.33%"),
            (3, 3, "100%"),
            (0, 3, "0%"),
            (1, 1_000_000, "0.00%"),
            (-1, 4, "-25.00%"),
            (1, 0, "0.00%"),
        ] {
            assert_eq!(percent(value, total, 2), expected);
        }
    }

    #[test]
    fn cut_text_fits_and_keeps_both_ends() {
        for (text, columns, expected) in [
            ("runtime.selectgo", 16, "runtime.selectgo"),
            ("runtime.selectgo", 10, "run…lectgo"),
            ("runtime.selectgo", 1, "…"),
            ("runtime.selectgo", 0, ""),
            ("日本語の関数", 7, "日…関数"),
        ] {
            let found = cut(text, columns);
            assert_eq!(found, expected);
            assert!(width(&found) <= columns);
        }
    }

    #[test]
    fn names_lose_folders_before_letters() {
        for (columns, expected) in [
            (36, "compress/flate.(*compressor).deflate"),
            (35, "flate.(*compressor).deflate"),
            (20, "flate.…ssor).deflate"),
        ] {
            let found = function("compress/flate.(*compressor).deflate", columns);
            assert_eq!(found, expected);
        }
        assert_eq!(function("<a/b as C>::call", 11), "<a/…>::call");
    }

    #[test]
    fn names_cannot_command_the_terminal() {
        assert_eq!(
            printable("a\u{1b}[31m\nb\u{202e}"),
            "a\u{fffd}[31m\u{fffd}b\u{fffd}"
        );
        assert!(matches!(printable("main.f"), Cow::Borrowed("main.f")));
    }

    #[test]
    fn places_shrink_before_they_go() {
        for (columns, expected) in [
            (30, Some("/app/sink.go:42")),
            (14, Some("sink.go:42")),
            (9, None),
        ] {
            assert_eq!(place("/app/sink.go", 42, columns).as_deref(), expected);
        }
        assert_eq!(place("", 42, 99), None);
        assert_eq!(place("a.c", 0, 99).as_deref(), Some("a.c"));
    }
}
