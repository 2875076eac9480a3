//! Everyone's budget, and those of clients and groups: a bucket each, and how they bound a read.
//!
//! Plain state for cold_budgets.rs, which holds its lock. The time and everyone's rate are given,
//! so all of it is tested without a clock.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::broker::cold_budgets::bucket::{Bucket, SAVED};
use crate::config::cold_budget::{ColdBudget, Entity};

/// An answer may take so much whatever the rate: less would cost more in requests than it saves.
const GRANT_MIN_BYTES: f64 = (256 << 10) as f64;

/// The part of a rate that reads of peers which do not scan have first.
pub(super) const FIRST_PART: f64 = 0.125;

/// A budget that was asked for within this time takes its share of everyone's rate.
const ACTIVE: Duration = Duration::from_secs(1);

/// Which budgets bound a read beside everyone's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Bound {
    client: Option<u16>,
    group: Option<u16>,
}

impl Bound {
    fn indexes(self) -> impl Iterator<Item = usize> {
        [self.client, self.group].into_iter().flatten().map(usize::from)
    }
}

/// A rate, and the part of it that reads of peers which do not scan have first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    pub(super) rate: f64,
    pub(super) first: f64,
}

impl Rate {
    pub(super) fn of(rate: f64) -> Self {
        Rate { rate, first: FIRST_PART * rate }
    }
}

/// What a fetch would read from the disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Read {
    pub(crate) bytes: u64,
    /// Most of it comes from the disk, as the peer's last answer did. Otherwise it is a hot reader
    /// that misses a page, as a rule, and shall not stand behind scans.
    pub(crate) is_of_scan: bool,
}

/// All budgets.
#[derive(Debug)]
pub(super) struct Limits {
    everyone: Limit,
    limits: Vec<Limit>,
    clients: HashMap<String, u16>,
    groups: HashMap<String, u16>,
}

/// One budget.
#[derive(Debug)]
struct Limit {
    budget: ColdBudget,
    bucket: Bucket,
    /// In debt only by reads of peers that do not scan.
    first: Bucket,
    asked: Option<Instant>,
    read_bytes: u64,
    postponed: u64,
}

/// What /metrics shows of a budget.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Shown {
    /// `everyone`, or a kind and a name.
    pub(crate) entity: String,
    /// 0: none of its own, as the settings have it.
    pub(crate) bytes_per_second: u64,
    pub(crate) read_bytes: u64,
    pub(crate) postponed: u64,
}

impl Limits {
    pub(super) fn new(everyone_rate: u64, budgets: &[ColdBudget], now: Instant) -> Self {
        let limit = |budget: &ColdBudget| Limit {
            budget: budget.clone(),
            bucket: Bucket::new(now),
            first: Bucket::new(now),
            asked: None,
            read_bytes: 0,
            postponed: 0,
        };
        let (mut clients, mut groups) = (HashMap::new(), HashMap::new());
        for (index, budget) in (0..).zip(budgets) {
            match &budget.entity {
                Entity::ClientId(name) => clients.insert(name.clone(), index),
                Entity::Group(name) => groups.insert(name.clone(), index),
                Entity::Everyone => None,
            };
        }
        let everyone = ColdBudget { entity: Entity::Everyone, bytes_per_second: everyone_rate };
        Limits {
            everyone: limit(&everyone),
            limits: budgets.iter().map(limit).collect(),
            clients,
            groups,
        }
    }

    /// The budgets that bound reads of a client for a group.
    pub(super) fn bound_of(&self, client_id: &str, group: Option<&str>) -> Bound {
        let group = group.and_then(|group| self.groups.get(group)).copied();
        Bound { client: self.clients.get(client_id).copied(), group }
    }

    /// Takes what a read may have: how many bytes, or how long until a bucket is out of debt. `all`
    /// is what everyone may read now.
    pub(super) fn take(
        &mut self,
        bound: Bound,
        read: Read,
        all: Rate,
        now: Instant,
    ) -> Result<u64, Duration> {
        bound.indexes().for_each(|index| self.limits[index].asked = Some(now));
        let all_rate = all.rate;
        let (mut wait, mut least_rate) = (self.everyone.wait(read, all, now), all_rate);
        for index in bound.indexes() {
            let rate = self.rate_of(index, all_rate, now);
            wait = wait.max(self.limits[index].wait(read, Rate::of(rate), now));
            least_rate = least_rate.min(rate);
        }
        let granted = match wait {
            Duration::ZERO => {
                read.bytes.min((least_rate * SAVED.as_secs_f64()).max(GRANT_MIN_BYTES) as u64)
            }
            wait => return Err(wait),
        };
        self.correct(bound, granted as f64);
        if !read.is_of_scan {
            self.everyone.first.take(granted as f64);
            bound.indexes().for_each(|index| self.limits[index].first.take(granted as f64));
        }
        Ok(granted)
    }

    /// Takes bytes that were read beyond those granted, or gives back what is negative.
    pub(super) fn correct(&mut self, bound: Bound, bytes: f64) {
        self.everyone.bucket.take(bytes);
        for index in bound.indexes() {
            self.limits[index].bucket.take(bytes);
        }
    }

    /// Counts bytes that the disk was read for.
    pub(super) fn count(&mut self, bound: Bound, bytes: u64) {
        self.everyone.read_bytes += bytes;
        for index in bound.indexes() {
            self.limits[index].read_bytes += bytes;
        }
    }

    pub(super) fn shown(&self) -> Vec<Shown> {
        std::iter::once(&self.everyone).chain(&self.limits).map(Limit::shown).collect()
    }

    /// The rate of a budget: its own, or its share of everyone's where budgets of its kind that are
    /// in use exceed that.
    fn rate_of(&self, index: usize, all_rate: f64, now: Instant) -> f64 {
        let own = &self.limits[index];
        let is_group = |limit: &Limit| matches!(limit.budget.entity, Entity::Group(_));
        let in_use = self.limits.iter().filter(|limit| {
            is_group(limit) == is_group(own)
                && limit.asked.is_some_and(|asked| now.saturating_duration_since(asked) < ACTIVE)
        });
        let wanted: f64 = in_use.map(Limit::rate).sum();
        own.rate() * (all_rate / wanted).min(1.0)
    }
}

impl Limit {
    fn rate(&self) -> f64 {
        self.budget.bytes_per_second as f64
    }

    /// How long a read waits for this budget.
    fn wait(&mut self, read: Read, at: Rate, now: Instant) -> Duration {
        let Rate { rate, first } = at;
        self.bucket.fill(rate, now);
        self.first.fill(first, now);
        let wait = match read.is_of_scan {
            true => self.bucket.wait(rate),
            false => self.bucket.wait(rate).min(self.first.wait(first)),
        };
        self.postponed += u64::from(!wait.is_zero());
        wait
    }

    fn shown(&self) -> Shown {
        Shown {
            entity: self.budget.entity.to_string(),
            bytes_per_second: self.budget.bytes_per_second,
            read_bytes: self.read_bytes,
            postponed: self.postponed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1_000_000;

    fn scan(bytes: u64) -> Read {
        Read { bytes, is_of_scan: true }
    }

    fn budgets(text: &str) -> Vec<ColdBudget> {
        crate::config::cold_budget::parse(text).unwrap()
    }

    /// Readers that each take 1 MB whenever they may, for ten seconds; what each of them got.
    fn race(limits: &mut Limits, readers: &[Bound], all_rate: f64) -> Vec<u64> {
        let began = Instant::now();
        let mut got = vec![0; readers.len()];
        for ms in 0..10_000 {
            let now = began + Duration::from_millis(ms);
            for (index, bound) in readers.iter().enumerate() {
                got[index] += limits.take(*bound, scan(MB), Rate::of(all_rate), now).unwrap_or(0);
            }
        }
        got
    }

    fn assert_near(got: u64, expected: u64) {
        assert!(got.abs_diff(expected) <= expected / 20, "{got}, not {expected}");
    }

    #[test]
    fn a_client_gets_its_budget_and_others_what_they_like() {
        let mut limits = Limits::new(0, &budgets("client-id/slow=50000000"), Instant::now());
        let [slow, other] = ["slow", "other"].map(|name| limits.bound_of(name, None));
        let got = race(&mut limits, &[slow, other], f64::INFINITY);
        assert_near(got[0], 500 * MB);
        assert_eq!(got[1], 10_000 * MB);
    }

    #[test]
    fn two_groups_share_a_disk_as_their_budgets_are_to_each_other() {
        let text = "group/a=30000000, group/b=10000000, group/idle=10000000";
        for (all_rate, a, b) in [(20e6, 150, 50), (400e6, 300, 100)] {
            let mut limits = Limits::new(0, &budgets(text), Instant::now());
            let readers = ["a", "b"].map(|group| limits.bound_of("c", Some(group)));
            let got = race(&mut limits, &readers, all_rate);
            assert_near(got[0], a * MB);
            assert_near(got[1], b * MB);
        }
    }

    #[test]
    fn a_read_is_held_by_the_least_of_the_budgets_that_bound_it() {
        let text = "group/g=10000000, client-id/c=90000000";
        let mut limits = Limits::new(0, &budgets(text), Instant::now());
        let [both, client] = [Some("g"), None].map(|group| limits.bound_of("c", group));
        assert_near(race(&mut limits, &[both], f64::INFINITY)[0], 100 * MB);
        let mut limits = Limits::new(0, &budgets(text), Instant::now());
        let got = race(&mut limits, &[both, client], f64::INFINITY);
        assert_near(got[0] + got[1], 900 * MB);
    }

    #[test]
    fn a_grant_is_fifty_milliseconds_of_the_rate_and_the_rest_is_debt() {
        let now = Instant::now();
        let mut limits = Limits::new(0, &budgets("client-id/c=20000000"), now);
        let bound = limits.bound_of("c", None);
        assert_eq!(limits.take(bound, scan(50 * MB), Rate::of(f64::INFINITY), now), Ok(MB));
        assert_eq!(limits.take(bound, scan(1), Rate::of(f64::INFINITY), now), Err(SAVED));
        assert_eq!(
            limits.take(Bound::default(), scan(50 * MB), Rate::of(f64::INFINITY), now),
            Ok(50 * MB)
        );
        limits.correct(bound, -(MB as f64));
        assert_eq!(limits.take(bound, scan(10), Rate::of(f64::INFINITY), now), Ok(10));
    }

    #[test]
    fn a_reader_that_misses_a_page_does_not_stand_behind_scans_nor_starve_them() {
        let read = Read { bytes: 64_000, is_of_scan: false };
        for (every_ms, is_greedy) in [(100, false), (1, true)] {
            let began = Instant::now();
            let mut limits = Limits::new(0, &budgets("client-id/c=80000000"), began);
            let bound = limits.bound_of("c", None);
            let (mut scanned, mut missed, mut waited) = (0, 0, 0);
            for ms in 0..10_000 {
                let now = began + Duration::from_millis(ms);
                scanned += limits.take(bound, scan(MB), Rate::of(f64::INFINITY), now).unwrap_or(0);
                if ms % every_ms == 0 {
                    let taken = limits.take(bound, read, Rate::of(f64::INFINITY), now);
                    waited += u64::from(taken.is_err());
                    missed += taken.unwrap_or(0);
                }
            }
            assert_near(scanned + missed, 800 * MB);
            assert!(is_greedy || waited == 0, "{waited}");
            assert!(scanned > 600 * MB, "{scanned} beside {missed}");
        }
    }

    #[test]
    fn what_was_read_and_what_was_postponed_is_shown_by_entity() {
        let now = Instant::now();
        let mut limits = Limits::new(7, &budgets("group/g=5"), now);
        let bound = limits.bound_of("c", Some("g"));
        assert!(limits.take(bound, scan(100), Rate::of(f64::INFINITY), now).is_ok());
        assert!(limits.take(bound, scan(100), Rate::of(f64::INFINITY), now).is_err());
        limits.count(bound, 100);
        limits.count(Bound::default(), 1);
        let shown = |entity: &str, bytes_per_second, read_bytes, postponed| Shown {
            entity: entity.into(),
            bytes_per_second,
            read_bytes,
            postponed,
        };
        assert_eq!(limits.shown(), [shown("everyone", 7, 101, 0), shown("group/g", 5, 100, 1)]);
    }
}
