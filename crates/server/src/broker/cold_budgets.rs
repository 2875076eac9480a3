//! Budgets of what fetches read from the disk, and the control that keeps hot fetches fast.
//!
//! ```text
//!   api/cold_reads.rs ── take ──► Limits, under a lock ──► Charge ── travels with the answer
//!                                    ▲                        │
//!   net/connection.rs ── settle ─────┴── what was read ◄──────┘   dropped: given back
//! ```
//!
//! There is none unless a setting asks for it, so that answers pay nothing. All workers share the
//! buckets. Hot answers never get here. Never waits: a caller is told how long it should.

mod bucket;
mod control;
mod controller;
mod limits;

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::broker::groups::Owners;
use crate::config::cold_budget::Entity;
use crate::config::settings::Settings;
pub(crate) use control::{Control, ControlView, TICK};
pub(crate) use controller::Reason;
pub(crate) use limits::Read;
use limits::{Bound, FIRST_PART, Limits, Rate, Shown};

/// The control leaves so many bytes a second to readers that do not scan.
const FIRST_MIN: f64 = (32 << 20) as f64;

/// All budgets, shared by the workers.
pub(crate) struct ColdBudgets {
    /// Everyone's budget; infinite: none.
    everyone: f64,
    limits: Mutex<Limits>,
    pub(crate) control: Option<Control>,
    has_budgets: bool,
    has_groups: bool,
    /// Which group a client reads a partition for. Made again once a second.
    owners: Mutex<Arc<Owners>>,
}

/// Bytes taken from the buckets for one range of an answer. Dropped, they go back.
pub(crate) struct Charge {
    budgets: Arc<ColdBudgets>,
    bound: Bound,
    bytes: u64,
}

impl ColdBudgets {
    /// `None`: no setting asks for it.
    pub(crate) fn of(settings: &Settings, now: Instant) -> Option<Arc<Self>> {
        let (all_rate, budgets) = (settings.cold_bytes_per_second, &settings.cold_budgets);
        let target = settings.hot_p99_target;
        if all_rate == 0 && budgets.is_empty() && target.is_none() {
            return None;
        }
        Some(Arc::new(ColdBudgets {
            everyone: if all_rate == 0 { f64::INFINITY } else { all_rate as f64 },
            limits: Mutex::new(Limits::new(all_rate, budgets, now)),
            control: target.map(|target| Control::new(target, now)),
            has_budgets: !budgets.is_empty(),
            has_groups: budgets.iter().any(|budget| matches!(budget.entity, Entity::Group(_))),
            owners: Mutex::default(),
        }))
    }

    /// Whether any read is bounded now.
    pub(crate) fn bounds_reads(&self) -> bool {
        self.has_budgets || self.rate().rate.is_finite()
    }

    /// Whether groups have budgets, so that [`ColdBudgets::set_owners`] is of use.
    pub(crate) fn has_groups(&self) -> bool {
        self.has_groups
    }

    pub(crate) fn set_owners(&self, owners: Owners) {
        *self.owners.lock() = Arc::new(owners);
    }

    /// Takes what it may, at most all, for a read of a partition.
    ///
    /// # Errors
    /// How long until another read is granted, at the present rates.
    pub(crate) fn take(
        self: &Arc<Self>,
        client_id: &str,
        topic: &str,
        partition: i32,
        read: Read,
        now: Instant,
    ) -> Result<Charge, Duration> {
        let bound = self.bound_of(client_id, Some((topic, partition)));
        let taken = self.limits.lock().take(bound, read, self.rate(), now);
        match taken {
            Ok(bytes) => Ok(Charge { budgets: Arc::clone(self), bound, bytes }),
            Err(wait) => {
                self.control.as_ref().inspect(|control| control.note_postponed());
                Err(wait)
            }
        }
    }

    /// Corrects what was taken for an answer to what the disk was read for. `None`: that is not
    /// known, and what was taken stands.
    pub(crate) fn settle(&self, client_id: &str, charges: &mut [Charge], read_bytes: Option<u64>) {
        let taken_bytes: u64 = charges.iter().map(|charge| charge.bytes).sum();
        let read_bytes = read_bytes.unwrap_or(taken_bytes);
        if taken_bytes == 0 && read_bytes == 0 {
            return;
        }
        self.control.as_ref().inspect(|control| control.note_disk(read_bytes));
        let mut limits = self.limits.lock();
        let mut left = read_bytes;
        let count = charges.len();
        for (index, charge) in charges.iter_mut().enumerate() {
            let part = charge.bytes as f64 / taken_bytes.max(1) as f64;
            let is_last = index + 1 == count;
            let bytes = if is_last { left } else { left.min((read_bytes as f64 * part) as u64) };
            left -= bytes;
            limits.correct(charge.bound, bytes as f64 - charge.bytes as f64);
            limits.count(charge.bound, bytes);
            charge.bytes = 0;
        }
        // Pages left the page cache between the plan and the send.
        if left > 0 {
            let bound = limits.bound_of(client_id, None);
            limits.correct(bound, left as f64);
            limits.count(bound, left);
        }
    }

    /// Every budget, everyone's first.
    pub(crate) fn shown(&self) -> Vec<Shown> {
        self.limits.lock().shown()
    }

    pub(crate) fn control_view(&self) -> Option<ControlView> {
        self.control.as_ref().map(Control::view)
    }

    fn bound_of(&self, client_id: &str, of: Option<(&str, i32)>) -> Bound {
        let owners = self.has_groups.then(|| Arc::clone(&self.owners.lock()));
        let group = owners
            .as_ref()
            .zip(of)
            .and_then(|(owners, (topic, partition))| owners.group_of(client_id, topic, partition));
        self.limits.lock().bound_of(client_id, group)
    }

    /// What everyone may read now. The control holds scans back, so that hot readers that miss a
    /// page need not wait, least of all for the control itself.
    /// Bytes a second that all fetches together may take from the disk. `None`: any.
    pub(crate) fn permitted(&self) -> Option<u64> {
        let rate = self.rate().rate;
        rate.is_finite().then_some(rate as u64)
    }

    fn rate(&self) -> Rate {
        let permitted = self.control.as_ref().map_or(f64::INFINITY, Control::permitted);
        let rate = self.everyone.min(permitted);
        let first = (FIRST_PART * rate).max(FIRST_MIN).min(FIRST_PART * self.everyone);
        Rate { rate, first }
    }
}

impl Charge {
    /// Bytes of the disk that may be read.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.budgets.limits.lock().correct(self.bound, -(self.bytes as f64));
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

    fn budgets(pairs: &[(&str, &str)]) -> Option<Arc<ColdBudgets>> {
        let mut settings = Settings::default();
        pairs.iter().for_each(|(key, value)| settings.set(key, value).unwrap());
        ColdBudgets::of(&settings, Instant::now())
    }

    #[test]
    fn without_a_setting_there_is_nothing_to_pay_for() {
        assert!(budgets(&[]).is_none());
        let target = budgets(&[("fetch.hot.p99.target.ms", "5")]).unwrap();
        assert!(!target.bounds_reads(), "it begins open");
        assert!(budgets(&[("fetch.cold.budgets", "group/g=1")]).unwrap().bounds_reads());
        assert!(budgets(&[("fetch.cold.bytes.per.second", "1")]).unwrap().bounds_reads());
    }

    #[test]
    fn a_charge_that_is_dropped_is_given_back() {
        let budgets = budgets(&[("fetch.cold.bytes.per.second", "100000000")]).unwrap();
        let now = Instant::now();
        let take = || budgets.take("c", "t", 0, scan(5 * MB), now);
        let charge = take().unwrap();
        assert_eq!(charge.bytes(), 5 * MB);
        let wait = take().err().unwrap();
        assert!(wait > Duration::from_millis(40), "{wait:?}");
        drop(charge);
        assert!(take().is_ok());
    }

    #[test]
    fn what_was_read_counts_and_not_what_was_taken_for_it() {
        let budgets = budgets(&[("fetch.cold.bytes.per.second", "100000000")]).unwrap();
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut charges = [(2 * MB, now), (MB, later)]
            .map(|(bytes, now)| budgets.take("c", "t", 0, scan(bytes), now).ok().unwrap());
        budgets.settle("c", &mut charges, Some(0));
        drop(charges);
        assert_eq!(budgets.shown()[0].read_bytes, 0);
        let mut charges = [budgets.take("c", "t", 0, scan(MB), later).ok().unwrap()];
        budgets.settle("c", &mut charges, Some(11 * MB));
        budgets.settle("c", &mut [], Some(3));
        assert_eq!(budgets.shown()[0].read_bytes, 11 * MB + 3);
        let wait = budgets.take("c", "t", 0, scan(1), later).err().unwrap();
        assert!((50..=111).contains(&wait.as_millis()), "{wait:?}");
    }

    #[test]
    fn a_reads_group_is_the_one_that_has_the_partition_assigned_to_its_client() {
        let budgets = budgets(&[("fetch.cold.budgets", "group/g=1000")]).unwrap();
        assert!(budgets.has_groups());
        let take = || budgets.take("c", "t", 0, scan(5 * MB), Instant::now());
        let free = take().ok().unwrap();
        assert_eq!(free.bytes(), 5 * MB, "a client of no group");
        let mut assignment = b"\0\0\0\0\0\x01\0\x01t\0\0\0\x01\0\0\0\0".to_vec();
        assignment.extend([0xff; 4]);
        let member = ("g".into(), "c".into(), assignment.into());
        budgets.set_owners(Owners::of(&[member]));
        assert!(take().ok().unwrap().bytes() < MB);
    }
}
