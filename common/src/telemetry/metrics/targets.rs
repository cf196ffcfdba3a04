//! The targets of channels: the names that they look up, and what the last look-ups found.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock, Weak},
    time::SystemTime,
};

use crate::{limits, sync::lock};

/// The targets of the process, while their channels live.
static ALL: Mutex<Vec<Weak<TargetMetrics>>> = Mutex::new(Vec::new());

/// The service that a channel calls.
#[derive(Debug)]
pub(crate) struct TargetMetrics {
    /// What people call it; without it, its names are.
    title: OnceLock<String>,
    names: Vec<Name>,
}

/// A host and port that a channel looks up.
#[derive(Debug)]
struct Name {
    authority: String,
    last: Mutex<LookUp>,
}

#[derive(Debug, Clone, Default)]
struct LookUp {
    at: Option<SystemTime>,
    error: Option<String>,
    /// Those of the last look-up that found some.
    addresses: Vec<SocketAddr>,
}

impl TargetMetrics {
    /// A target with these hosts and ports, on `/status` and in `/metrics`.
    ///
    /// A name that is an address has it from the start.
    pub(crate) fn new(names: impl Iterator<Item = (String, Vec<SocketAddr>)>) -> Arc<Self> {
        let target = Arc::new(Self {
            title: OnceLock::new(),
            names: names
                .map(|(authority, addresses)| Name {
                    authority,
                    last: Mutex::new(LookUp {
                        addresses,
                        ..LookUp::default()
                    }),
                })
                .collect(),
        });
        let mut all = lock(&ALL);
        all.retain(|one| one.strong_count() > 0);
        all.push(Arc::downgrade(&target));
        target
    }

    /// Sets what people call it. The first call counts.
    pub(crate) fn set_title(&self, title: String) {
        let _ = self.title.set(title);
    }

    /// Notes what the look-up of a name has found.
    pub(crate) fn looked_up(&self, index: usize, found: Result<&[SocketAddr], String>) {
        let mut last = lock(&self.names[index].last);
        last.at = Some(SystemTime::now());
        last.error = match found {
            Ok(addresses) => {
                last.addresses = addresses.to_vec();
                None
            }
            Err(mut error) => {
                error.truncate(error.floor_char_boundary(limits::DETAIL));
                Some(error)
            }
        };
    }
}

/// A target as it is, for people.
#[derive(Debug, Clone)]
pub(crate) struct TargetSummary {
    pub(crate) title: String,
    pub(crate) names: Vec<NameSummary>,
}

/// A name of a target, and its last look-up.
#[derive(Debug, Clone, Default)]
pub(crate) struct NameSummary {
    pub(crate) authority: String,
    pub(crate) looked_up: Option<SystemTime>,
    pub(crate) error: Option<String>,
    /// Those of the last look-up that found some.
    pub(crate) addresses: Vec<SocketAddr>,
}

fn all() -> Vec<Arc<TargetMetrics>> {
    lock(&ALL).iter().filter_map(Weak::upgrade).collect()
}

/// The services that this process calls. Clones of a channel share one.
pub(crate) fn summaries() -> Vec<TargetSummary> {
    let summary = |target: Arc<TargetMetrics>| {
        let names = target.names.iter().map(|name| {
            let last = lock(&name.last).clone();
            NameSummary {
                authority: name.authority.clone(),
                looked_up: last.at,
                error: last.error,
                addresses: last.addresses,
            }
        });
        let names: Vec<_> = names.collect();
        let authorities = || {
            let authorities = names.iter().map(|name| name.authority.as_str());
            authorities.collect::<Vec<_>>().join(", ")
        };
        TargetSummary {
            title: target.title.get().cloned().unwrap_or_else(authorities),
            names,
        }
    };
    all().into_iter().map(summary).collect()
}

/// The names that were looked up and never found.
pub(crate) fn without_address() -> Vec<String> {
    // Two channels may have one name.
    let mut names = BTreeMap::new();
    for target in all() {
        for name in &target.names {
            let last = lock(&name.last);
            if last.at.is_some() {
                let is_found = names.entry(name.authority.clone()).or_insert(false);
                *is_found |= !last.addresses.is_empty();
            }
        }
    }
    let names = names.into_iter().filter(|(_, is_found)| !is_found);
    names.map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::text;

    fn has(line: &str) -> bool {
        text("").1.lines().any(|one| one == line)
    }

    #[test]
    fn a_name_without_an_address_has_its_series_with_0_until_it_has_one() {
        let target = TargetMetrics::new([("nowhere.test:1".to_owned(), Vec::new())].into_iter());
        let up = r#"replicas{replica="nowhere.test:1",state="up"} 0"#;
        assert!(!has(up), "it was not looked up yet");
        target.looked_up(0, Err("no such name".into()));
        assert!(has(up));
        assert!(
            !text("")
                .1
                .contains(r#"replica_picks_total{replica="nowhere.test:1"}"#)
        );
        target.looked_up(0, Ok(&[([192, 0, 2, 7], 1).into()]));
        assert!(!has(up));
        target.looked_up(0, Err("no such name".into()));
        assert!(!has(up), "its last addresses are kept");
        drop(target);
    }

    #[test]
    fn a_target_has_its_title_or_its_names() {
        let names = ["a.test:1", "b.test:2"].map(|name| (name.to_owned(), Vec::new()));
        let target = TargetMetrics::new(names.into_iter());
        let title = || {
            let all = summaries().into_iter();
            let mut ours = all.filter(|it| it.names[0].authority == "a.test:1");
            ours.next().map(|it| it.title)
        };
        assert_eq!(title().as_deref(), Some("a.test:1, b.test:2"));
        target.set_title("service1".into());
        assert_eq!(title().as_deref(), Some("service1"));
        drop(target);
        assert_eq!(title(), None);
    }
}
