//! The pool on its own, with threads enough. tests/threads.rs of the workspace tests a shortage.

use std::sync::Barrier;
use std::sync::mpsc;

use super::*;

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// Occupies `threads` threads of the pool until the sender is dropped.
fn hold(pool: &Pool, threads: usize) -> mpsc::Sender<()> {
    let (release, held) = mpsc::channel::<()>();
    let held = Arc::new(Mutex::new(held));
    let here = Arc::new(Barrier::new(threads + 1));
    for _ in 0..threads {
        let (held, here) = (Arc::clone(&held), Arc::clone(&here));
        drop(pool.run(move || {
            here.wait();
            let _ = held.lock().unwrap().recv();
        }));
    }
    here.wait();
    release
}

#[test]
fn the_kept_threads_are_there_before_there_is_work_and_after_it() {
    let pool = Pool::default();
    pool.start().unwrap();
    assert_eq!(pool.0.lock().threads, KEPT_THREADS);
    assert_eq!(wait(pool.run(|| 1 + 1)), Ok(2));
    pool.start().unwrap();
    assert_eq!(pool.0.lock().threads, KEPT_THREADS);
}

#[test]
fn jobs_that_take_long_hold_up_no_others() {
    let pool = Pool::default();
    pool.start().unwrap();
    let _held = hold(&pool, 3 * KEPT_THREADS);
    assert_eq!(wait(pool.run(|| "goes on")), Ok("goes on"));
    assert!(pool.0.lock().threads > 3 * KEPT_THREADS);
}

#[test]
fn a_job_that_panics_costs_its_outcome_and_no_thread() {
    let pool = Pool::default();
    pool.start().unwrap();
    for _ in 0..2 * KEPT_THREADS {
        let lost = wait(pool.run(|| -> () { panic!("as a test wants it") }));
        assert_eq!(lost, Err(JobLost::Panicked));
    }
    assert_eq!(pool.0.lock().threads, KEPT_THREADS);
    assert_eq!(wait(pool.run(|| ())), Ok(()));
}

/// As with `spawn_blocking`: a submitted job runs, whether or not its future is polled.
#[test]
fn a_job_whose_future_is_dropped_runs_all_the_same() {
    let pool = Pool::default();
    let (ran, runs) = mpsc::channel();
    drop(pool.run(move || ran.send(()).unwrap()));
    assert_eq!(runs.recv(), Ok(()));
}

/// A woken thread counts as idle for one job only.
#[test]
fn as_many_jobs_at_once_as_there_are_threads_take_no_more_threads_than_that() {
    let pool = Pool::default();
    pool.start().unwrap();
    drop(hold(&pool, KEPT_THREADS));
    assert!(pool.0.lock().threads <= 2 * KEPT_THREADS);
    assert_eq!(wait(pool.run(|| ())), Ok(()));
}

/// A thread inherits its maker's nice value: a slow maker would leave a slow thread to others.
#[test]
fn a_thread_that_must_make_none_gets_the_next_free_one() {
    let pool = Pool::default();
    pool.start().unwrap();
    let held = hold(&pool, KEPT_THREADS);
    let slow = pool.clone();
    let (submitted, is_submitted) = mpsc::channel();
    let slow = std::thread::spawn(move || {
        make_none_here();
        let job = slow.run(|| "done");
        submitted.send(()).unwrap();
        wait(job)
    });
    is_submitted.recv().unwrap();
    assert_eq!(pool.0.lock().threads, KEPT_THREADS, "the slow one made none");
    drop(held);
    assert_eq!(slow.join().unwrap(), Ok("done"));
    assert_eq!(pool.0.lock().threads, KEPT_THREADS);
}

#[test]
fn a_job_that_waits_for_a_thread_gets_one_from_the_next_caller() {
    let pool = Pool::default();
    pool.start().unwrap();
    let _held = hold(&pool, KEPT_THREADS);
    let slow = pool.clone();
    let job = std::thread::spawn(move || {
        make_none_here();
        slow.run(|| "done")
    });
    let job = job.join().unwrap();
    assert_eq!(wait(pool.run(|| "mine")), Ok("mine"));
    assert_eq!(wait(job), Ok("done"));
}
