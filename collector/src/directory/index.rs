//! Which series of a service have a label with a value. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::labels::{LabelSet, Matcher, Selector};

use crate::store::SeriesId;

/// Series by the value of one label.
type Values = BTreeMap<Arc<str>, Vec<SeriesId>>;

/// Label name, then value, then series, sorted.
#[derive(Debug, Default)]
pub(super) struct LabelIndex {
    names: BTreeMap<Arc<str>, Values>,
}

/// What a condition says of series.
enum Verdict {
    /// Only these meet it.
    Only(Vec<SeriesId>),
    /// All but these do.
    AllBut(Vec<SeriesId>),
}

fn sorted(lists: impl Iterator<Item = impl IntoIterator<Item = SeriesId>>) -> Vec<SeriesId> {
    let mut ids: Vec<SeriesId> = lists.flatten().collect();
    ids.sort_unstable();
    ids
}

impl LabelIndex {
    /// Adds a series that is not there.
    pub(super) fn insert(&mut self, id: SeriesId, labels: &LabelSet) {
        for (name, value) in labels.iter() {
            if !self.names.contains_key(name) {
                self.names.insert(Arc::from(name), Values::new());
            }
            let Some(values) = self.names.get_mut(name) else {
                continue;
            };
            match values.get_mut(value) {
                Some(ids) => {
                    // New series have the largest id.
                    let at = ids.partition_point(|known| *known < id);
                    ids.insert(at, id);
                }
                None => {
                    values.insert(Arc::from(value), vec![id]);
                }
            }
        }
    }

    /// Removes a series with these labels, and what no other series has.
    pub(super) fn remove(&mut self, id: SeriesId, labels: &LabelSet) {
        for (name, value) in labels.iter() {
            let Some(values) = self.names.get_mut(name) else {
                continue;
            };
            if let Some(ids) = values.get_mut(value) {
                ids.retain(|known| *known != id);
                if ids.is_empty() {
                    values.remove(value);
                }
            }
            if values.is_empty() {
                self.names.remove(name);
            }
        }
    }

    /// Names of labels, sorted.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(|name| &**name)
    }

    /// The values of label `name` with their series, sorted.
    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = (&str, &[SeriesId])> {
        let values = self.names.get(name).into_iter().flatten();
        values.map(|(value, ids)| (&**value, &ids[..]))
    }

    /// What `matcher` says. Adds to `asked` how many values it was shown.
    fn verdict(&self, matcher: &Matcher, asked: &mut usize) -> Verdict {
        let empty = Values::new();
        let values = self.names.get(matcher.name()).unwrap_or(&empty);
        let mut accepts = |value: &str| {
            *asked += 1;
            matcher.accepts_value(value)
        };
        // A series without the label is met as the empty value is. What is listed
        // are the series that fare otherwise, so none without the label is.
        let meets_absent = accepts("");
        let lists: Vec<&Vec<SeriesId>> = match matcher.values() {
            // The named values fare otherwise than the empty one.
            Some(mut named) if !named.contains(&"") => {
                named.sort_unstable();
                named.dedup();
                named
                    .iter()
                    .filter_map(|value| values.get(*value))
                    .collect()
            }
            // The named values fare as the empty one, which is among them.
            Some(named) => {
                let others = values
                    .iter()
                    .filter(|(value, _)| !named.contains(&&***value));
                others.map(|(_, ids)| ids).collect()
            }
            None => {
                let others = values
                    .iter()
                    .filter(|(value, _)| accepts(value) != meets_absent);
                others.map(|(_, ids)| ids).collect()
            }
        };
        let ids = sorted(lists.into_iter().map(|ids| ids.iter().copied()));
        match meets_absent {
            true => Verdict::AllBut(ids),
            false => Verdict::Only(ids),
        }
    }

    /// The series that meet `selector`, sorted; `all` are all there are, sorted.
    /// Adds to `asked` how many values conditions were shown.
    pub(super) fn select(
        &self,
        selector: &Selector,
        all: impl Iterator<Item = SeriesId>,
        asked: &mut usize,
    ) -> Vec<SeriesId> {
        let mut only: Vec<Vec<SeriesId>> = Vec::new();
        let mut but: Vec<Vec<SeriesId>> = Vec::new();
        for matcher in selector.matchers() {
            match self.verdict(matcher, asked) {
                Verdict::Only(ids) => only.push(ids),
                Verdict::AllBut(ids) => but.push(ids),
            }
        }
        only.sort_by_key(Vec::len);
        let mut only = only.into_iter();
        let mut found = match only.next() {
            Some(fewest) => fewest,
            None => all.collect(),
        };
        for ids in only {
            found.retain(|id| ids.binary_search(id).is_ok());
        }
        for ids in but {
            found.retain(|id| ids.binary_search(id).is_err());
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn index(series: &[LabelSet]) -> LabelIndex {
        let mut index = LabelIndex::default();
        for (id, labels) in (1..).zip(series) {
            index.insert(SeriesId(id), labels);
        }
        index
    }

    fn ids(count: usize) -> impl Iterator<Item = SeriesId> {
        (1..).take(count).map(SeriesId)
    }

    /// What looking at every series finds.
    fn naive(series: &[LabelSet], selector: &Selector) -> Vec<SeriesId> {
        let numbered = ids(series.len()).zip(series);
        let picked = numbered.filter(|(_, labels)| selector.accepts(labels));
        picked.map(|(id, _)| id).collect()
    }

    #[test]
    fn a_condition_is_shown_each_value_once() {
        let series: Vec<LabelSet> = (0..10_000)
            .map(|pod| {
                LabelSet::new([
                    ("service", "s"),
                    ("version", &format!("1.{}", pod % 4)),
                    ("pod", &format!("p-{pod}")),
                ])
                .unwrap()
            })
            .collect();
        let index = index(&series);
        for (text, most) in [
            (r#"{version="1.2"}"#, 1),
            (r#"{version!="1.2"}"#, 1),
            (r#"{pod=~"p-1|p-77|p-9999"}"#, 1),
            (r#"{version=~"1\\.[12]"}"#, 5),
            (r#"{version=~"1\\.[12]", pod="p-5"}"#, 6),
            (r#"{zone=~"z.*"}"#, 1),
            (r#"{pod=~"p-1.*"}"#, 10_001),
        ] {
            let selector: Selector = text.parse().unwrap();
            let mut asked = 0;
            let found = index.select(&selector, ids(series.len()), &mut asked);
            assert_eq!(found, naive(&series, &selector), "{text}");
            assert!(asked <= most, "{text}: {asked}");
        }
    }

    fn labels() -> impl Strategy<Value = LabelSet> {
        proptest::collection::btree_map("[a-c]", "[xyz]{1,2}", 0..4)
            .prop_map(|pairs| LabelSet::new(pairs).unwrap())
    }

    fn matcher() -> impl Strategy<Value = String> {
        let op = prop_oneof![Just("="), Just("!="), Just("=~"), Just("!~")];
        let value = prop_oneof![
            "[xyz]{0,2}",
            "[xyz]{0,2}\\|[xyz]{0,2}",
            Just("x.*".to_owned()),
            Just(".*".to_owned()),
            Just("(x|yy)?".to_owned()),
        ];
        ("[a-d]", op, value).prop_map(|(name, op, value)| format!("{name}{op}\"{value}\""))
    }

    proptest! {
        #[test]
        fn the_index_picks_what_looking_at_every_series_picks(
            series in proptest::collection::vec(labels(), 0..30),
            matchers in proptest::collection::vec(matcher(), 0..4),
        ) {
            let text = format!("{{{}}}", matchers.join(","));
            let selector: Selector = text.parse().unwrap();
            let found = index(&series).select(&selector, ids(series.len()), &mut 0);
            prop_assert_eq!(found, naive(&series, &selector), "{}", text);
        }

        #[test]
        fn names_and_values_are_those_of_the_series(
            series in proptest::collection::vec(labels(), 0..30)
        ) {
            let index = index(&series);
            let mut expected = BTreeMap::<String, BTreeMap<String, Vec<SeriesId>>>::new();
            for (id, labels) in ids(series.len()).zip(&series) {
                for (name, value) in labels.iter() {
                    let values = expected.entry(name.to_owned()).or_default();
                    values.entry(value.to_owned()).or_default().push(id);
                }
            }
            let names: Vec<&str> = index.names().collect();
            prop_assert_eq!(&names, &expected.keys().collect::<Vec<_>>());
            for (name, values) in &expected {
                let found: Vec<_> = index
                    .values(name)
                    .map(|(value, ids)| (value.to_owned(), ids.to_vec()))
                    .collect();
                let values: Vec<_> = values.clone().into_iter().collect();
                prop_assert_eq!(found, values);
            }
        }
    }
}
