//! Prometheus' text exposition format, read strictly: what a lenient reader would pass over is an error here.

use std::collections::{BTreeMap, BTreeSet};

/// A page of metrics.
#[derive(Debug, Default)]
pub struct Exposition {
    /// The families, by name.
    pub families: BTreeMap<String, Family>,
}

/// The samples of one name.
#[derive(Debug, Default)]
pub struct Family {
    /// What it says of itself.
    pub help: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: String,
    /// Its samples: their names with suffixes, their labels, their values.
    pub samples: Vec<(String, BTreeMap<String, String>, f64)>,
}

impl Exposition {
    /// Reads a page, and checks that it keeps to the format and to the naming conventions.
    ///
    /// # Panics
    ///
    /// With the line that does not.
    pub fn read(page: &str) -> Self {
        let mut found = Self::default();
        let mut current = String::new();
        assert!(page.ends_with('\n'), "the last line has no end");
        for line in page.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                let mut words = comment.splitn(3, ' ');
                let (what, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
                let rest = words.next().unwrap_or_default();
                match what {
                    "HELP" => {
                        assert!(!found.families.contains_key(name), "{name} is there twice");
                        assert!(!rest.trim().is_empty(), "no help: {line}");
                        name.clone_into(&mut current);
                        let family = Family { help: rest.to_owned(), ..Family::default() };
                        found.families.insert(name.to_owned(), family);
                    }
                    "TYPE" => {
                        assert_eq!(name, current, "TYPE follows HELP of the same name: {line}");
                        assert!(["counter", "gauge", "histogram"].contains(&rest), "{line}");
                        rest.clone_into(&mut found.family(name).kind);
                    }
                    _ => panic!("neither HELP nor TYPE: {line}"),
                }
                continue;
            }
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
            let value = match value {
                "+Inf" => f64::INFINITY,
                value => value.parse().unwrap_or_else(|_| panic!("no number: {line}")),
            };
            let (name, labels) = match series.split_once('{') {
                None => (series, BTreeMap::new()),
                Some((name, rest)) => (name, labels(rest, line)),
            };
            let family = found.family(&current);
            let suffix = name.strip_prefix(current.as_str()).unwrap_or_else(|| panic!("{line} stands under {current}"));
            let suffixes: &[&str] = if family.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(suffixes.contains(&suffix), "a {} has no sample {line}", family.kind);
            family.samples.push((name.to_owned(), labels, value));
        }
        found.check_names();
        found.check_samples();
        found
    }

    fn family(&mut self, name: &str) -> &mut Family {
        self.families.get_mut(name).unwrap_or_else(|| panic!("{name} has no HELP"))
    }

    fn check_names(&self) {
        for (name, family) in &self.families {
            let is_plain = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            assert!(is_plain && name.starts_with("millrace_"), "{name}");
            assert_eq!(family.kind == "counter", name.ends_with("_total"), "{name} is a {}", family.kind);
            for unit in ["_ms", "_millis", "_ns", "_us", "_minutes", "_kib", "_mib", "_percent", "_count", "_bucket"] {
                assert!(!name.trim_end_matches("_total").ends_with(unit), "{name} is not in a base unit");
            }
            assert!(family.help.ends_with('.') && !family.help.ends_with(".."), "{name}: {}", family.help);
        }
    }

    fn check_samples(&self) {
        for (name, family) in &self.families {
            let mut seen = BTreeSet::new();
            for (sample, labels, value) in &family.samples {
                assert!(seen.insert((sample, labels)), "{sample}{labels:?} is there twice");
                assert!(!value.is_nan(), "{sample}{labels:?} is no number");
                assert!(family.kind == "gauge" || *value >= 0.0, "{sample}{labels:?} is {value}");
            }
            if family.kind == "histogram" {
                family.check_histogram(name);
            }
        }
    }

    /// The sum of a name's samples with these labels.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[track_caller]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let family =
            self.families.get(name).unwrap_or_else(|| panic!("no {name}; there are {:?}", self.families.keys()));
        let has = |of: &BTreeMap<String, String>| {
            labels.iter().all(|(name, value)| of.get(*name).is_some_and(|found| found == value))
        };
        let values: Vec<f64> = family.samples.iter().filter(|(_, of, _)| has(of)).map(|(_, _, value)| *value).collect();
        assert!(!values.is_empty(), "{name} has no sample with {labels:?}: {family:?}");
        values.iter().sum()
    }
}

impl Family {
    /// Every series has rising buckets, the last one for everything, a sum and a count that is the last bucket's.
    fn check_histogram(&self, name: &str) {
        let mut series: BTreeMap<BTreeMap<String, String>, Vec<(f64, f64)>> = BTreeMap::new();
        for (sample, labels, value) in self.samples.iter().filter(|(sample, ..)| sample.ends_with("_bucket")) {
            let mut labels = labels.clone();
            let bound = labels.remove("le").unwrap_or_else(|| panic!("{sample} without le"));
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().expect("a bound is a number") };
            series.entry(labels).or_default().push((bound, *value));
        }
        for (labels, buckets) in series {
            let rises = |pair: &[(f64, f64)]| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1;
            assert!(buckets.windows(2).all(rises), "{name}{labels:?}: {buckets:?}");
            let &(last, all) = buckets.last().expect("a series has a bucket");
            assert!(last.is_infinite(), "{name}{labels:?} ends at {last}");
            let one = |suffix: &str| {
                let wanted = format!("{name}{suffix}");
                let mut of = self.samples.iter().filter(|(sample, of, _)| *sample == wanted && *of == labels);
                of.next().unwrap_or_else(|| panic!("{wanted}{labels:?} is missing")).2
            };
            assert_eq!(one("_count"), all, "{name}{labels:?}");
            assert!((one("_sum") > 0.0) == (all > 0.0), "{name}{labels:?}");
        }
    }
}

fn labels(text: &str, line: &str) -> BTreeMap<String, String> {
    let text = text.strip_suffix('}').unwrap_or_else(|| panic!("the labels do not end: {line}"));
    let mut labels = BTreeMap::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (name, behind) = rest.split_once("=\"").unwrap_or_else(|| panic!("no label: {line}"));
        let mut value = String::new();
        let mut chars = behind.char_indices();
        let end = loop {
            match chars.next() {
                Some((_, '\\')) => value.extend(chars.next().map(|(_, char)| char)),
                Some((at, '"')) => break at,
                Some((_, char)) => value.push(char),
                None => panic!("a label's value does not end: {line}"),
            }
        };
        assert!(labels.insert(name.to_owned(), value).is_none(), "a label is there twice: {line}");
        rest = &behind[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str =
        "# HELP millrace_a_total Rows.\n# TYPE millrace_a_total counter\nmillrace_a_total{b=\"c\\\"\"} 2\n";

    #[test]
    fn a_page_s_samples_are_found_by_name_and_labels() {
        assert_eq!(Exposition::read(PAGE).value("millrace_a_total", &[("b", "c\"")]), 2.0);
    }

    #[test]
    #[should_panic(expected = "millrace_a is a counter")]
    fn a_counter_without_total_is_told() {
        Exposition::read(&PAGE.replace("_a_total", "_a"));
    }

    #[test]
    #[should_panic(expected = "is there twice")]
    fn a_sample_that_is_there_twice_is_told() {
        Exposition::read(&format!("{PAGE}millrace_a_total{{b=\"c\\\"\"}} 3\n"));
    }
}
