//! Names that a reader may have meant. Pure.

/// Characters of a name that are compared.
const MAX_CHARS: usize = 256;

/// The last part of a function's name: `selectgo` of `runtime.selectgo`.
fn last_part(name: &str) -> &str {
    let part = name.rsplit(['.', '/', ':']).find(|part| !part.is_empty());
    part.unwrap_or(name)
}

/// The least number of characters to change, add or leave out so that `a`
/// becomes `b` (Levenshtein); `None` when it is more than `most`.
fn distance(a: &[char], b: &[char], most: usize) -> Option<usize> {
    if a.len().abs_diff(b.len()) > most {
        return None;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (at, from) in a.iter().enumerate() {
        let mut diagonal = at;
        let mut left = at + 1;
        let mut least = left;
        for (to, slot) in b.iter().zip(row.iter_mut().skip(1)) {
            let above = *slot;
            let changed = diagonal + usize::from(from != to);
            left = changed.min(above + 1).min(left + 1);
            diagonal = above;
            *slot = left;
            least = least.min(left);
        }
        if least > most {
            return None;
        }
    }
    row.last().copied().filter(|distance| *distance <= most)
}

fn chars(text: &str) -> Vec<char> {
    text.chars()
        .take(MAX_CHARS)
        .flat_map(char::to_lowercase)
        .collect()
}

/// Returns at most `limit` of `names` that are like `wanted`, the nearest first:
/// those that hold it, then those that differ in few letters, as a whole or in
/// the part after the last dot.
pub fn near<'n>(
    wanted: &str,
    names: impl Iterator<Item = &'n str>,
    limit: usize,
) -> Vec<(usize, &'n str)> {
    let whole = chars(wanted);
    let part = chars(last_part(wanted));
    let text: String = whole.iter().collect();
    let mut found: Vec<(usize, &str)> = names
        .filter_map(|name| {
            let other = chars(name);
            if !text.is_empty() && other.iter().collect::<String>().contains(&text) {
                return Some((0, name));
            }
            let distances = [
                distance(&whole, &other, whole.len() / 3),
                distance(&part, &chars(last_part(name)), part.len() / 3),
            ];
            let nearest = distances.into_iter().flatten().min();
            nearest.map(|distance| (distance.saturating_add(1), name))
        })
        .collect();
    found.sort_by_key(|(distance, name)| (*distance, name.len(), *name));
    found.dedup();
    found.truncate(limit);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_names_come_first() {
        let names = [
            "runtime.selectgo",
            "runtime.selectnbrecv",
            "main.(*sink).startSink",
            "main.startSinks",
            "encoding/json.Marshal",
            "core::slice::sort",
        ];
        for (wanted, expected) in [
            (
                "startsink",
                &["main.startSinks", "main.(*sink).startSink"][..],
            ),
            ("runtime.selectg0", &["runtime.selectgo"]),
            ("selctgo", &["runtime.selectgo"]),
            ("json.marshall", &["encoding/json.Marshal"]),
            ("sort", &["core::slice::sort"]),
            ("compress", &[]),
            ("", &[]),
        ] {
            let found = near(wanted, names.into_iter(), 3);
            let found: Vec<&str> = found.into_iter().map(|(_, name)| name).collect();
            assert_eq!(found, expected, "{wanted}");
        }
    }

    #[test]
    fn distances_are_exact_or_too_far() {
        for (a, b, most, expected) in [
            ("", "", 0, Some(0)),
            ("abc", "abc", 0, Some(0)),
            ("abc", "abd", 1, Some(1)),
            ("abc", "ab", 1, Some(1)),
            ("kitten", "sitting", 3, Some(3)),
            ("kitten", "sitting", 2, None),
            ("a", "abcdef", 4, None),
        ] {
            assert_eq!(distance(&chars(a), &chars(b), most), expected, "{a} {b}");
            assert_eq!(distance(&chars(b), &chars(a), most), expected, "{b} {a}");
        }
    }
}
