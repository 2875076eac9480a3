//! The load during a fault: four producers and two consumers of two partitions.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ScopedJoinHandle;

use crate::Client;
use crate::consumer::Consumer;
use crate::journal::Journal;
use crate::producer::{End, Producer};
use crate::rounds::Dice;
use crate::witness::Witness;

/// The topic.
pub const TOPIC: &str = "acknowledged";
/// Its partitions.
pub const PARTITIONS: usize = 2;
const CONSUMERS: usize = 2;

/// The acks of each producer, and whether it is idempotent.
const PRODUCERS: [(i16, bool); 4] = [(1, false), (1, true), (-1, false), (-1, true)];

/// Producers and consumers with one journal. They go on from one fault to the next.
#[derive(Debug, Default)]
pub struct Load {
    producers: Vec<Producer>,
    consumers: Vec<Consumer>,
    /// How often new ones were made.
    generation: usize,
    journal: Arc<Journal>,
}

/// The ends of a load.
#[derive(Debug)]
pub struct Ended {
    /// The producers' ends.
    pub producers: Vec<End>,
    /// The consumers' ends.
    pub consumers: Vec<End>,
}

impl Load {
    /// Creates the topic, with small segments so that faults meet rolls, and its producers and
    /// consumers.
    pub fn create(client: &mut Client, dice: &mut Dice) -> Load {
        let configs = [("segment.bytes", "262144")];
        client.create_topic(TOPIC, PARTITIONS as i32, &configs).expect("the topic is new");
        let mut load = Load::default();
        load.renew_clients(dice, &[0; PARTITIONS]);
        load
    }

    /// Makes new producers and consumers after a fault that lost records the old ones rely on. The
    /// consumers read from these offsets on.
    pub fn renew_clients(&mut self, dice: &mut Dice, offsets: &[i64; PARTITIONS]) {
        let (journal, generation) = (&self.journal, self.generation);
        let producer = |(at, (acks, is_idempotent)): (usize, &(i16, bool))| {
            let place = (TOPIC, (at / (PRODUCERS.len() / PARTITIONS)) as i32);
            let number = (generation * PRODUCERS.len() + at) as u64;
            Producer::new(journal, place, (number, *acks, *is_idempotent), dice.split())
        };
        self.producers = PRODUCERS.iter().enumerate().map(producer).collect();
        self.consumers = (0..CONSUMERS).map(|_| Consumer::new(journal, TOPIC, offsets)).collect();
        self.generation += 1;
    }

    /// Keeps only the producers of the first partition.
    pub fn keep_first_partition(&mut self) {
        self.producers.truncate(PRODUCERS.len() / PARTITIONS);
    }

    /// The journal of records sent and acknowledged.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// A witness that can read the log in this data directory.
    pub fn witness<'a>(&self, data_dir: &'a std::path::Path) -> Witness<'a> {
        Witness { data_dir, topic: TOPIC, partitions: PARTITIONS }
    }

    /// Runs only the producers, until each has ended by itself.
    pub fn until_producers_end(&mut self, server: SocketAddr) -> Vec<End> {
        let never = &AtomicBool::new(false);
        std::thread::scope(|scope| {
            let run = |producer: &mut Producer| producer.run(server, never);
            let producers = self.producers.iter_mut();
            join(producers.map(|producer| scope.spawn(move || run(producer))).collect())
        })
    }

    /// Runs the load and `fault` beside it. Then stops the producers and consumers that the fault
    /// did not end.
    pub fn under(&mut self, server: SocketAddr, fault: impl FnOnce(&Journal)) -> Ended {
        let stop = AtomicBool::new(false);
        let (producers, consumers) = (&mut self.producers, &mut self.consumers);
        let (stop, journal) = (&stop, &self.journal);
        std::thread::scope(|scope| {
            let producing: Vec<_> =
                producers.iter_mut().map(|p| scope.spawn(move || p.run(server, stop))).collect();
            let consuming: Vec<_> =
                consumers.iter_mut().map(|c| scope.spawn(move || c.run(server, stop))).collect();
            let _stops = StopsWhenDropped(stop);
            fault(journal);
            stop.store(true, Ordering::Relaxed);
            Ended { producers: join(producing), consumers: join(consuming) }
        })
    }
}

fn join(clients: Vec<ScopedJoinHandle<'_, End>>) -> Vec<End> {
    clients.into_iter().map(|client| client.join().expect("no client panicked")).collect()
}

/// Stops the load also if a fault panics. Otherwise the scope would wait for it for ever.
struct StopsWhenDropped<'a>(&'a AtomicBool);

impl Drop for StopsWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
