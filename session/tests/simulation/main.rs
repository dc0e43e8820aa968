//! A simulation of whole streams: many producers, consuming processes that share budgets, and paths between them that
//! delay, cut and interleave, and are lost. A seed decides everything. `SEED=17 cargo test -p trunkline-session simulation`
//! replays one, and `SEEDS=50000` runs so many.

mod oracle;
mod paths;
mod plan;
mod process;
mod producer;
mod random;
mod relay;
mod world;

use trunkline_proto::code::Code;

use oracle::Failure;
use relay::Sabotage;
use world::{Counts, Report, run};

/// As many seeds as take a few seconds: the rarest fault that was found so far showed in one of a thousand.
const SEEDS: u64 = 3_000;
/// Seeds that are run with each fault.
const SABOTAGED_SEEDS: u64 = 300;
/// So many runs in which a fault struck that must always be found. One that is found by silence lasts until patience ends.
const STRUCK_MAX: usize = 60;

fn count_of_seeds() -> u64 {
    std::env::var("SEEDS").map_or(SEEDS, |count| count.parse().expect("SEEDS is a number"))
}

fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().expect("SEED is a number")],
        Err(_) => (0..count).collect(),
    }
}

fn replay(seed: u64) -> String {
    format!("replay it: SEED={seed} cargo test -p trunkline-session simulation")
}

/// Says how to replay a run in which something panics.
struct Replayed(u64);

impl Drop for Replayed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", replay(self.0));
        }
    }
}

#[test]
fn the_simulation_finds_every_stream_exact_bounded_and_ended_once() {
    let mut counts = Counts::default();
    let seeds = seeds(count_of_seeds());
    for &seed in &seeds {
        let _replayed = Replayed(seed);
        let report = run(seed, None);
        if let Err(failure) = &report.result {
            panic!("seed {seed}: {failure:?} in round {}", report.rounds);
        }
        counts.add(report.counts);
    }
    println!("{} seeds: {counts:?}", seeds.len());
    // A simulation in which nothing happens would find nothing.
    if seeds.len() > 1 {
        let Counts { messages, clean, aborted, unknown, reclaims, reclaimed_bytes, came_back, .. } = counts;
        let Counts { losses, losses_after, resumptions, refusals, sent_again, surprises, stale, .. } = counts;
        assert!(messages > 50_000 && clean > 10_000 && aborted > 3_000 && unknown > 300, "{counts:?}");
        assert!(reclaims > 1_000 && reclaimed_bytes > 10_000 && came_back > 100, "{counts:?}");
        assert!(losses > 10_000 && resumptions > 5_000 && refusals > 1_000 && sent_again > 100_000, "{counts:?}");
        assert!(losses_after.iter().all(|&count| count > 20) && surprises > 500 && stale > 1_000, "{counts:?}");
    }
}

#[test]
fn the_simulation_runs_the_same_for_the_same_seed() {
    for seed in seeds(SABOTAGED_SEEDS).into_iter().step_by(10) {
        assert_eq!(run(seed, None), run(seed, None), "{}", replay(seed));
    }
    assert_ne!(run(1, None).trace, run(2, None).trace);
}

/// Runs many seeds with a fault; returns what was found in those where it struck, `struck_max` at most.
fn sabotaged(fault: Sabotage, struck_max: usize) -> Vec<(u64, Report)> {
    let runs = seeds(SABOTAGED_SEEDS).into_iter().map(|seed| {
        let _replayed = Replayed(seed);
        (seed, run(seed, Some(fault)))
    });
    let struck: Vec<_> = runs.filter(|(_, report)| report.has_sabotaged).take(struck_max).collect();
    assert!(struck.len() > 10 || std::env::var("SEED").is_ok(), "{fault:?} struck {} times", struck.len());
    struck
}

fn assert_always_found(fault: Sabotage, is_fitting: impl Fn(&Failure) -> bool) {
    let mut has_fitted = false;
    for (seed, report) in sabotaged(fault, STRUCK_MAX) {
        match report.result {
            Ok(()) => panic!("seed {seed}: {fault:?} went unnoticed\n{}", replay(seed)),
            Err(failure) => has_fitted |= is_fitting(&failure),
        }
    }
    assert!(has_fitted || std::env::var("SEED").is_ok(), "{fault:?} was never found for what it is");
}

fn is_refused(failure: &Failure, code: Code) -> bool {
    matches!(failure, Failure::Refused { code: found, .. } if *found == code)
}

#[test]
fn the_simulation_finds_a_lost_chunk() {
    assert_always_found(Sabotage::Drop, |failure| matches!(failure, Failure::NotWhatWasWritten { .. }));
}

#[test]
fn the_simulation_finds_a_gap_refused() {
    assert_always_found(
        Sabotage::DropWithGap,
        |failure| matches!(failure, Failure::Refused { text, .. } if text.ends_with("are missing")),
    );
}

#[test]
fn the_simulation_finds_a_chunk_that_came_twice() {
    assert_always_found(Sabotage::Duplicate, |failure| matches!(failure, Failure::NotWhatWasWritten { .. }));
}

#[test]
fn the_simulation_finds_two_chunks_that_changed_places() {
    assert_always_found(Sabotage::Swap, |failure| matches!(failure, Failure::NotWhatWasWritten { .. }));
}

#[test]
fn the_simulation_finds_a_byte_that_was_altered() {
    assert_always_found(Sabotage::Alter, |failure| matches!(failure, Failure::NotWhatWasWritten { .. }));
}

#[test]
fn the_simulation_finds_an_abort_disguised_as_a_clean_end() {
    assert_always_found(Sabotage::FakeEnd, |failure| matches!(failure, Failure::FalseEnd { .. }));
}

#[test]
fn the_simulation_finds_an_end_without_its_mark_refused() {
    assert_always_found(Sabotage::FakeFin, |failure| is_refused(failure, Code::Protocol));
}

#[test]
fn the_simulation_finds_lost_credit_by_its_silence() {
    assert_always_found(Sabotage::LoseCredit, |failure| matches!(failure, Failure::Stuck { .. }));
}

#[test]
fn the_simulation_finds_an_invented_finish() {
    assert_always_found(Sabotage::InventConsumed, |failure| {
        is_refused(failure, Code::Protocol) || matches!(failure, Failure::FalseFinish { .. })
    });
}

/// Credit that was invented does no harm where it was not used, or where the true limit has caught up with it.
#[test]
fn the_simulation_finds_the_use_of_invented_credit_refused() {
    let code = Code::CreditExceeded;
    let found = sabotaged(Sabotage::InventCredit, usize::MAX);
    let is_found = |(_, report): &(u64, Report)| report.result.as_ref().is_err_and(|failure| is_refused(failure, code));
    assert!(found.iter().any(is_found) || std::env::var("SEED").is_ok());
}

/// Faults of credit do no harm where the credit was not used; where it was, they are found for what they are.
fn assert_found_where_used(fault: Sabotage, is_fitting: impl Fn(&Failure) -> bool) {
    let found = sabotaged(fault, usize::MAX);
    let is_found = |(_, report): &(u64, Report)| report.result.as_ref().is_err_and(&is_fitting);
    assert!(found.iter().any(is_found) || std::env::var("SEED").is_ok(), "{fault:?} was never found");
}

#[test]
fn the_simulation_finds_the_use_of_credit_that_was_given_back_refused() {
    let code = Code::CreditExceeded;
    assert_found_where_used(Sabotage::IgnoreReclaim, |failure| is_refused(failure, code));
}

#[test]
fn the_simulation_finds_credit_that_was_told_while_it_was_asked_back() {
    let code = Code::CreditExceeded;
    assert_found_where_used(Sabotage::GrantDuringReclaim, |failure| is_refused(failure, code));
}

#[test]
fn the_simulation_finds_credit_that_was_freed_before_the_answer() {
    assert_found_where_used(Sabotage::FreeBeforeLimit, |failure| matches!(failure, Failure::Overcommitted { .. }));
}

#[test]
fn the_simulation_finds_bytes_of_a_lost_path_that_are_passed_on_by_the_next() {
    assert_always_found(Sabotage::KeepOldBytes, |failure| matches!(failure, Failure::NotWhatWasWritten { .. }));
}

#[test]
fn the_simulation_finds_a_resumption_that_passes_over_bytes() {
    assert_always_found(Sabotage::ResumeAhead, |failure| {
        matches!(failure, Failure::NotWhatWasWritten { .. }) || is_refused(failure, Code::Protocol)
    });
}

#[test]
fn the_simulation_finds_a_resumption_before_what_the_producer_knows_refused() {
    assert_always_found(Sabotage::ResumeBehind, |failure| is_refused(failure, Code::Protocol));
}

#[test]
fn the_simulation_finds_that_what_is_sent_again_is_dropped() {
    assert_always_found(Sabotage::ForgetRewind, |failure| {
        matches!(failure, Failure::NotWhatWasWritten { .. }) || is_refused(failure, Code::Protocol)
    });
}

#[test]
fn the_simulation_finds_an_end_that_is_never_acknowledged() {
    assert_always_found(Sabotage::DropEndAck, |failure| matches!(failure, Failure::Unsettled { .. }));
}

#[test]
fn the_simulation_finds_an_end_that_is_acknowledged_and_not_passed_on() {
    assert_always_found(Sabotage::InventEndAck, |failure| matches!(failure, Failure::Stuck { .. }));
}

#[test]
fn the_simulation_finds_the_use_of_a_limit_of_a_lost_path_refused() {
    assert_found_where_used(Sabotage::KeepOldLimit, |failure| is_refused(failure, Code::CreditExceeded));
}

#[test]
fn the_simulation_finds_an_invented_finish_of_a_stream_that_was_resumed() {
    assert_found_where_used(Sabotage::InventFinishedAgain, |failure| matches!(failure, Failure::FalseFinish { .. }));
}

/// A stream whose credit is believed to be asked for still is granted nothing more.
#[test]
fn the_simulation_finds_that_credit_that_came_back_with_a_loss_was_not_counted() {
    assert_found_where_used(Sabotage::ForgetWhatCameBack, |failure| matches!(failure, Failure::Stuck { .. }));
}
