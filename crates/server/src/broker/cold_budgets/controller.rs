//! Which rate cold reads may have so that hot fetches keep their p99. Pure: a window of
//! measurements goes in, a rate comes out. Called by control.rs.
//!
//! ```text
//!   p99 of the window      0 ........ 0.4 ........... 0.6 ........ target
//!   the rate               rises, if it was used │ stays │ falls by a factor
//! ```
//!
//! The rate falls only if the last seconds are too slow as well: a stall that would come without
//! cold reads, too, is within the one percent. It begins low and rises fast up to half of the rate
//! that was last too slow, slowly from there on. It never falls below a floor, and permits every
//! rate where there is nothing to protect.

use std::time::Duration;

/// Cold reads always get this many bytes a second.
pub(crate) const FLOOR: f64 = (4 << 20) as f64;

/// The first rate beside hot fetches.
const FIRST: f64 = (64 << 20) as f64;

/// No disk needs more.
const CEILING: f64 = 1e12;

/// Above this part of the target the rate falls, below the other it rises. The rest is for what a
/// client sees and the server does not: the network, and the client's own waits.
const FALLS_ABOVE: f64 = 0.6;
const RISES_BELOW: f64 = 0.4;

/// Growth of a window up to half of the rate that was last too slow, and beyond that.
const FAST: f64 = 1.25;
const SLOW: f64 = 1.04;

/// How fast the rate that was last too slow is forgotten, a window with room.
const FORGETS: f64 = 1.07;

/// What is left of a rate that was not used, at least.
const UNUSED: f64 = 0.8;

/// What a window of time showed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Window {
    pub(crate) took: Duration,
    pub(crate) hot_fetches: u64,
    /// Of the hot fetches, with the event loop's lag.
    pub(crate) p99: Option<Duration>,
    /// The same of the last seconds.
    pub(crate) lately_p99: Option<Duration>,
    /// Bytes that fetches took from the disk.
    pub(crate) disk_bytes: u64,
    /// A cold read had to wait for the rate.
    pub(crate) postponed: bool,
}

/// Why the rate is as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Too few hot fetches to protect: every rate is permitted.
    NoHotFetches,
    /// Hot fetches are fast and the rate was used: it rises.
    Room,
    /// Hot fetches are fast and cold reads do not need more: it goes back to what they take, and
    /// readers that come later begin from there.
    Unused,
    /// The p99 is where it should be: it stays.
    NearTarget,
    /// The p99 of the window and of the last seconds is too close to the target: it falls.
    TooSlow,
    /// It would fall, and cannot.
    Floor,
    /// Hot fetches are slow although nothing is read from the disk: it stays.
    SlowWithoutColdReads,
}

impl Reason {
    pub(crate) const ALL: [Reason; 7] = [
        Reason::NoHotFetches,
        Reason::Room,
        Reason::Unused,
        Reason::NearTarget,
        Reason::TooSlow,
        Reason::Floor,
        Reason::SlowWithoutColdReads,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Reason::NoHotFetches => "no_hot_fetches",
            Reason::Room => "room",
            Reason::Unused => "unused",
            Reason::NearTarget => "near_target",
            Reason::TooSlow => "too_slow",
            Reason::Floor => "floor",
            Reason::SlowWithoutColdReads => "slow_without_cold_reads",
        }
    }
}

/// The controller.
#[derive(Debug)]
pub(crate) struct Controller {
    target: Duration,
    rate: f64,
    /// The rate that was last too slow; infinite: none yet.
    slow_at: f64,
    reason: Reason,
}

impl Controller {
    pub(crate) fn new(target: Duration) -> Self {
        Controller { target, rate: FIRST, slow_at: f64::INFINITY, reason: Reason::NoHotFetches }
    }

    /// Whether a window that is still open shows enough to decide by. A p99 takes 100 fetches.
    /// Where they are rare the window is longer, and its slowest fetch counts. Hot fetches that
    /// come back are protected at once.
    pub(crate) fn is_enough(&self, hot_fetches: u64, open_for: Duration) -> bool {
        const LONGEST: Duration = Duration::from_secs(2);
        let least = if self.is_open() { HOT_FETCHES_MIN } else { 100 };
        hot_fetches >= least || open_for >= LONGEST
    }

    /// Decides after a window. Bytes a second; infinite: every rate is permitted.
    pub(crate) fn step(&mut self, window: &Window) -> f64 {
        self.reason = self.judge(window);
        match self.reason {
            Reason::TooSlow | Reason::Floor => {
                self.slow_at = self.in_effect(window);
                self.rate = self.lowered(window);
            }
            Reason::Room => {
                let growth = if self.rate < 0.5 * self.slow_at { FAST } else { SLOW };
                self.rate = (self.rate * growth).min(CEILING);
                self.slow_at *= FORGETS;
            }
            Reason::Unused => {
                let tried = (1.25 * disk_rate(window)).max(FIRST);
                self.rate = self.rate.min(tried.max(UNUSED * self.rate));
            }
            _ => {}
        }
        self.permitted()
    }

    /// What is permitted now.
    pub(crate) fn permitted(&self) -> f64 {
        if self.is_open() { f64::INFINITY } else { self.rate }
    }

    pub(crate) fn reason(&self) -> Reason {
        self.reason
    }

    fn is_open(&self) -> bool {
        self.reason == Reason::NoHotFetches
    }

    fn judge(&self, window: &Window) -> Reason {
        let Some(part) = self.part_of_target(window) else { return Reason::NoHotFetches };
        let lately = self.part(window.lately_p99).unwrap_or(part);
        if part > FALLS_ABOVE && lately > FALLS_ABOVE {
            return match (window.disk_bytes > 0 || window.postponed, self.rate > FLOOR) {
                (false, _) => Reason::SlowWithoutColdReads,
                (true, true) => Reason::TooSlow,
                (true, false) => Reason::Floor,
            };
        }
        let is_used = window.postponed || disk_rate(window) > 0.7 * self.rate;
        match is_used {
            false => Reason::Unused,
            true if part < RISES_BELOW => Reason::Room,
            true => Reason::NearTarget,
        }
    }

    /// The p99 as a part of the target, where there were enough hot fetches.
    fn part_of_target(&self, window: &Window) -> Option<f64> {
        let p99 = window.p99.filter(|_| window.hot_fetches >= HOT_FETCHES_MIN)?;
        self.part(Some(p99))
    }

    fn part(&self, p99: Option<Duration>) -> Option<f64> {
        p99.map(|p99| p99.as_secs_f64() / self.target.as_secs_f64())
    }

    /// The last seconds decide how far, so that one stall costs little. A rate far above what was
    /// read would fall for many windows before it had an effect.
    fn lowered(&self, window: &Window) -> f64 {
        let part = self.part(window.lately_p99.or(window.p99)).unwrap_or(1.0);
        let factor = (FALLS_ABOVE / part).clamp(0.5, 0.9);
        (self.in_effect(window) * factor).max(FLOOR)
    }

    fn in_effect(&self, window: &Window) -> f64 {
        self.rate.min(1.5 * disk_rate(window) + FLOOR)
    }
}

/// Fewer in a window are not protected.
const HOT_FETCHES_MIN: u64 = 10;

fn disk_rate(window: &Window) -> f64 {
    window.disk_bytes as f64 / window.took.as_secs_f64().max(1e-3)
}

#[cfg(test)]
mod tests;
