//! A fake kernel in memory, and the properties that must hold whatever it does.
//!
//! [`FakeKernel`] performs plans on a file, a pipe and a socket that are byte vectors, and may
//! break every operation by a fault. The properties drive the real transfer machine and the real
//! slab with it. Completions come in any order, and futures are dropped in any state. Tests only.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use bytes::Bytes;
use proptest::prelude::*;

use crate::error::TransferError;
use crate::operations::{Abandoned, Completed, Key, Operations, Owed, Resources};
use crate::transfer::{Means, Next, Op, Piece, Transfer};

/// Many times more plans than a transfer of the properties' size can need. Beyond it the machine
/// runs in a circle.
const MAX_PLANS: usize = 10_000;

/// How the kernel breaks one operation.
#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    /// Moves so many thousandths of the bytes, at least one byte.
    Short(u64),
    /// Returns this errno.
    Errno(i32),
}

/// The surroundings of one transfer.
struct FakeKernel {
    /// The true end of the file.
    file_len_bytes: u64,
    pipe_slots: u64,
    stage: Vec<u8>,
    wire: Vec<u8>,
    faults: Vec<Fault>,
}

impl FakeKernel {
    /// Performs a plan as a chain: operations behind the first break are cancelled.
    fn perform(&mut self, transfer: &Transfer) -> Vec<i32> {
        let mut broken = false;
        let mut perform = |&op: &Op| {
            if broken {
                return -libc::ECANCELED;
            }
            let result = self.perform_one(transfer, op);
            broken = result < 0 || asked(op).is_some_and(|asked| (result as u64) < asked);
            result
        };
        transfer.plan().iter().map(&mut perform).collect()
    }

    fn perform_one(&mut self, transfer: &Transfer, op: Op) -> i32 {
        let fault = self.faults.pop().unwrap_or(Fault::None);
        let cut = match (fault, asked(op)) {
            (Fault::Errno(errno), _) => return -errno,
            (_, None) => return i32::from(libc::POLLOUT),
            (Fault::None, Some(asked)) => asked as usize,
            (Fault::Short(thousandth), Some(asked)) => (asked * thousandth / 1000).max(1) as usize,
        };
        let moved = match op {
            Op::PollOut => unreachable!("answered above"),
            Op::Send { piece, from, len_bytes, .. } => {
                self.wire.extend(&transfer.bytes(piece, from, len_bytes)[..cut]);
                cut
            }
            Op::Gather { piece, from, len_bytes } => {
                self.stage.extend(transfer.bytes(piece, from, len_bytes));
                len_bytes as usize
            }
            Op::Fill { piece, position, .. } => {
                let bytes = self.read(transfer, piece, position, cut);
                self.stage.extend(&bytes);
                bytes.len()
            }
            Op::Drain { len_bytes, .. } => {
                assert!(len_bytes as usize <= self.stage.len(), "the drain would park for ever");
                self.wire.extend(self.stage.drain(..cut));
                cut
            }
            Op::SendFile { piece, position, .. } => {
                let bytes = self.read(transfer, piece, position, cut);
                self.wire.extend(&bytes);
                bytes.len()
            }
        };
        moved as i32
    }

    fn read(&self, transfer: &Transfer, piece: usize, position: u64, cut: usize) -> Vec<u8> {
        let _same_file = transfer.file(piece);
        let end = self.file_len_bytes.min(position + cut as u64);
        (position..end.max(position)).map(byte_at).collect()
    }
}

fn asked(op: Op) -> Option<u64> {
    match op {
        Op::PollOut => None,
        Op::Send { len_bytes, .. }
        | Op::Gather { len_bytes, .. }
        | Op::Fill { len_bytes, .. }
        | Op::Drain { len_bytes, .. }
        | Op::SendFile { len_bytes, .. } => Some(u64::from(len_bytes)),
    }
}

fn byte_at(position: u64) -> u8 {
    (position.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
}

/// A transfer in flight, as the slab owns it for perform.rs.
struct Flight {
    transfer: Transfer,
    world: Rc<World>,
}

/// What the tests know of a flight from outside.
struct World {
    kernel: RefCell<FakeKernel>,
    /// Completions the kernel owes.
    owed: Cell<usize>,
    released: Cell<usize>,
}

impl Resources for Flight {
    fn abandoned(mut self: Box<Self>, results: &[i32]) {
        self.transfer.apply(results);
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        assert_eq!(self.world.owed.get(), 0, "released under the kernel's hands");
        let stage = &self.world.kernel.borrow().stage;
        let staged = self.transfer.staged_bytes();
        assert_eq!(staged, stage.len() as u64, "a pipe that is not empty would be used again");
        self.world.released.set(self.world.released.get() + 1);
    }
}

#[derive(Clone, Debug)]
enum Part {
    Bytes(u16),
    File { position: u32, len_bytes: u32 },
}

fn pieces_of(parts: &[Part]) -> Vec<Piece> {
    let file = Arc::new(File::open("/dev/null").expect("a file to name"));
    let piece = |part: &Part| match *part {
        Part::Bytes(len_bytes) => {
            Piece::Bytes(Bytes::from(vec![len_bytes as u8; len_bytes as usize]))
        }
        Part::File { position, len_bytes } => Piece::File {
            file: Arc::clone(&file),
            position: u64::from(position),
            len_bytes: u64::from(len_bytes),
        },
    };
    parts.iter().map(piece).collect()
}

fn promised(parts: &[Part]) -> Vec<u8> {
    let bytes = |part: &Part| match *part {
        Part::Bytes(len_bytes) => vec![len_bytes as u8; len_bytes as usize],
        Part::File { position, len_bytes } => {
            (u64::from(position)..u64::from(position) + u64::from(len_bytes)).map(byte_at).collect()
        }
    };
    parts.iter().flat_map(bytes).collect()
}

fn parts() -> impl Strategy<Value = Vec<Part>> {
    let part = prop_oneof![
        (0..300u16).prop_map(Part::Bytes),
        (0..20_000u32, 0..40_000u32)
            .prop_map(|(position, len_bytes)| Part::File { position, len_bytes }),
    ];
    prop::collection::vec(part, 0..12)
}

fn means() -> impl Strategy<Value = Means> {
    prop_oneof![
        (1..40_000u32, 1..16u32)
            .prop_map(|(hop_bytes, pipe_slots)| Means::Chain { hop_bytes, pipe_slots }),
        Just(Means::Sendfile),
        (1..65_536u32).prop_map(|stage_bytes| Means::Copy { stage_bytes }),
    ]
}

/// Mostly mild faults, so that a transfer gets somewhere before it ends.
fn faults() -> impl Strategy<Value = Vec<Fault>> {
    let errno = prop_oneof![
        Just(libc::EPIPE),
        Just(libc::ECONNRESET),
        Just(libc::EIO),
        Just(libc::ENOMEM),
        Just(512),
        Just(i32::MAX),
    ];
    let fault = prop_oneof![
        20 => Just(Fault::None),
        8 => (0..1000u64).prop_map(Fault::Short),
        4 => Just(Fault::Errno(libc::EAGAIN)),
        2 => Just(Fault::Errno(libc::EINTR)),
        1 => Just(Fault::Errno(libc::ECANCELED)),
        1 => errno.prop_map(Fault::Errno),
    ];
    prop::collection::vec(fault, 0..60)
}

#[derive(Clone, Debug)]
struct Case {
    parts: Vec<Part>,
    means: Means,
    faults: Vec<Fault>,
    file_len_bytes: u64,
    /// Whether the pool is under pressure, so that a blocked transfer gives its pipe up.
    parks: bool,
}

fn case() -> impl Strategy<Value = Case> {
    let file_len_bytes = prop_oneof![4 => Just(u64::MAX), 1 => 0..100_000u64];
    (parts(), means(), faults(), file_len_bytes, any::<bool>()).prop_map(
        |(parts, means, faults, file_len_bytes, parks)| Case {
            parts,
            means,
            faults,
            file_len_bytes,
            parks,
        },
    )
}

impl Case {
    fn flight(&self) -> Box<Flight> {
        let pipe_slots = match self.means {
            Means::Chain { pipe_slots, .. } => u64::from(pipe_slots),
            _ => u64::MAX,
        };
        let kernel = FakeKernel {
            file_len_bytes: self.file_len_bytes,
            pipe_slots,
            stage: Vec::new(),
            wire: Vec::new(),
            faults: self.faults.clone(),
        };
        Box::new(Flight {
            transfer: Transfer::new(pieces_of(&self.parts), self.means),
            world: Rc::new(World {
                kernel: RefCell::new(kernel),
                owed: Cell::new(0),
                released: Cell::new(0),
            }),
        })
    }

    /// Checks what must hold after every step.
    fn check(&self, world: &World) {
        let wire = &world.kernel.borrow().wire;
        assert!(promised(&self.parts).starts_with(wire), "the peer received something else");
    }

    fn settle(&self, flight: &mut Flight) {
        if flight.transfer.is_refused() {
            flight.transfer.leave_chain(Means::Copy { stage_bytes: 10_000 });
            let mut kernel = flight.world.kernel.borrow_mut();
            kernel.stage.clear();
            kernel.pipe_slots = u64::MAX;
        }
        if self.parks && flight.transfer.is_blocked() {
            flight.transfer.forget_staged();
            flight.world.kernel.borrow_mut().stage.clear();
        }
    }
}

/// Performs the next plan and returns its results, or how the transfer ended.
fn step(flight: &mut Flight) -> Result<Vec<i32>, Result<(), TransferError>> {
    match flight.transfer.next() {
        Next::Done => return Err(Ok(())),
        Next::Failed(error) => return Err(Err(error)),
        Next::Do(plan) => assert!(!plan.is_empty(), "a plan to do nothing"),
    }
    let mut kernel = flight.world.kernel.borrow_mut();
    let fits = |op: &Op| match *op {
        Op::Fill { position, len_bytes, .. } => {
            (position % 4096 + u64::from(len_bytes)).div_ceil(4096) <= kernel.pipe_slots
        }
        _ => true,
    };
    assert!(flight.transfer.plan().iter().all(fits), "more asked than a pipe holds");
    Ok(kernel.perform(&flight.transfer))
}

proptest! {
    /// One transfer at a time: however the kernel cuts and fails, the peer gets a prefix of the
    /// promised bytes, and all of them if the machine ends with Done. The machine always ends.
    #[test]
    fn what_arrives_is_a_prefix_and_whole_when_done(case in case()) {
        let mut flight = case.flight();
        let world = Rc::clone(&flight.world);
        let mut end = None;
        for _ in 0..MAX_PLANS {
            match step(&mut flight) {
                Ok(results) => flight.transfer.apply(&results),
                Err(ended) => {
                    end = Some(ended);
                    break;
                }
            }
            case.settle(&mut flight);
            case.check(&world);
        }
        match end.expect("the machine runs in a circle") {
            Ok(()) => prop_assert_eq!(&world.kernel.borrow().wire, &promised(&case.parts)),
            Err(TransferError::OutOfOrder { .. } | TransferError::NoProgress { .. }) => {
                prop_assert!(false, "this kernel never does that");
            }
            Err(TransferError::FileEndedEarly { position, .. }) => {
                prop_assert!(position >= case.file_len_bytes);
            }
            Err(TransferError::PeerGone { .. } | TransferError::Os(_)) => {}
            Err(TransferError::Read { position, is_begun, .. }) => {
                prop_assert!(position <= case.file_len_bytes);
                prop_assert_eq!(is_begun, !world.kernel.borrow().wire.is_empty());
            }
        }
        let tally = flight.transfer.take_tally();
        prop_assert_eq!(tally.file_bytes + tally.header_bytes, world.kernel.borrow().wire.len() as u64);
    }

    /// No sequence of results makes the machine panic.
    #[test]
    fn no_result_whatever_panics(
        parts in parts(),
        means in means(),
        noise in prop::collection::vec(any::<i32>(), 0..200),
        spread in 1..100_000i32,
    ) {
        let mut transfer = Transfer::new(pieces_of(&parts), means);
        let mut noise = noise.into_iter();
        while let Next::Do(plan) = transfer.next() {
            let results: Vec<_> = plan.iter().map_while(|_| noise.next()).map(|n| n % spread).collect();
            if results.len() < plan.len() {
                break;
            }
            transfer.apply(&results);
        }
    }

    /// Many transfers on one slab: completions come in any order, futures are dropped in any state,
    /// old completions are repeated. Each resource is released once, and not before the last
    /// completion.
    #[test]
    fn resources_are_released_once_and_after_the_last_completion(
        cases in prop::collection::vec(case(), 1..5),
        choices in prop::collection::vec((any::<u8>(), any::<u16>()), 0..600),
    ) {
        let mut sky = Sky::new(&cases);
        for (what, which) in choices {
            match what {
                0..=99 => sky.poll(which),
                100..=229 => sky.complete(which),
                230..=239 => sky.abandon(which),
                _ => sky.repeat_old_completion(which),
            }
        }
        sky.land();
        for (case, world) in cases.iter().zip(&sky.worlds) {
            case.check(world);
            prop_assert_eq!(world.released.get(), 1);
            prop_assert_eq!(world.owed.get(), 0);
        }
    }
}

/// Several flights on one slab, and the kernel that owes them completions.
struct Sky<'a> {
    cases: &'a [Case],
    worlds: Vec<Rc<World>>,
    futures: Vec<Future>,
    operations: Operations,
    /// (flight, user_data, result), in no order.
    owed: Vec<(usize, u64, i32)>,
    old: Vec<u64>,
}

enum Future {
    Idle(Box<Flight>),
    Waiting(Key),
    Gone,
}

impl<'a> Sky<'a> {
    fn new(cases: &'a [Case]) -> Sky<'a> {
        let flights: Vec<_> = cases.iter().map(Case::flight).collect();
        Sky {
            cases,
            worlds: flights.iter().map(|flight| Rc::clone(&flight.world)).collect(),
            futures: flights.into_iter().map(Future::Idle).collect(),
            operations: Operations::default(),
            owed: Vec::new(),
            old: Vec::new(),
        }
    }

    fn pick(which: u16, len: usize) -> Option<usize> {
        (len > 0).then(|| which as usize % len)
    }

    /// Polls one future, which submits its next plan, takes its flight back, or goes on waiting.
    fn poll(&mut self, which: u16) {
        let Some(index) = Self::pick(which, self.futures.len()) else { return };
        self.futures[index] = match std::mem::replace(&mut self.futures[index], Future::Gone) {
            Future::Gone => Future::Gone,
            Future::Idle(flight) => self.submit(index, flight),
            Future::Waiting(key) => match self.operations.poll_take(key, Waker::noop()) {
                Poll::Pending => Future::Waiting(key),
                Poll::Ready((resources, results)) => {
                    let resources: Box<dyn std::any::Any> = resources;
                    let mut flight: Box<Flight> = resources.downcast().expect("a flight");
                    flight.transfer.apply(&results);
                    self.cases[index].settle(&mut flight);
                    Future::Idle(flight)
                }
            },
        };
    }

    fn submit(&mut self, index: usize, mut flight: Box<Flight>) -> Future {
        let Ok(results) = step(&mut flight) else { return Future::Gone };
        self.worlds[index].owed.set(results.len());
        let key = self.operations.insert(flight, Owed::Each(results.len()));
        let owed = results.iter().enumerate();
        self.owed.extend(owed.map(|(position, &result)| (index, key.user_data(position), result)));
        Future::Waiting(key)
    }

    fn complete(&mut self, which: u16) {
        let Some(index) = Self::pick(which, self.owed.len()) else { return };
        let (flight, user_data, result) = self.owed.swap_remove(index);
        let world = &self.worlds[flight];
        world.owed.set(world.owed.get() - 1);
        let last = world.owed.get() == 0;
        self.old.push(user_data);
        match self.operations.complete(user_data, result) {
            Completed::Stale => panic!("a completion that was owed is not known"),
            Completed::Partly => assert!(!last),
            Completed::Ready(_) => assert!(last),
            Completed::Released(resources, results) => {
                assert!(last);
                resources.abandoned(&results);
            }
        }
    }

    fn abandon(&mut self, which: u16) {
        let Some(index) = Self::pick(which, self.futures.len()) else { return };
        let future = std::mem::replace(&mut self.futures[index], Future::Gone);
        let Future::Waiting(key) = future else { return };
        match self.operations.abandon(key) {
            Abandoned::Orphaned => assert!(self.worlds[index].owed.get() > 0),
            Abandoned::Released(resources, results) => resources.abandoned(&results),
        }
    }

    fn repeat_old_completion(&mut self, which: u16) {
        let Some(index) = Self::pick(which, self.old.len()) else { return };
        assert!(matches!(self.operations.complete(self.old[index], 1), Completed::Stale));
    }

    /// Drops every future, then delivers all owed completions.
    fn land(&mut self) {
        for index in 0..self.futures.len() {
            self.abandon(index as u16);
        }
        while !self.owed.is_empty() {
            self.complete(0);
        }
        assert!(self.operations.is_empty(), "{} entries left", self.operations.len());
    }
}
