//! The checker of histories, held against histories whose verdict is known: each mistake that it is there for is caught.

use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

use crate::{
    entry::{
        Entry, NEVER,
        Operation::{self, *},
        State,
        Told::{self, *},
        check, culprit,
    },
    linearizability::Verdict,
    support::{
        objects::Answer::{self, *},
        seed,
    },
};

trait IntoTold {
    fn told(self) -> Told;
}

impl IntoTold for Told {
    fn told(self) -> Told {
        self
    }
}

impl IntoTold for Answer {
    fn told(self) -> Told {
        Ended(self)
    }
}

fn said(operation: Operation, told: impl IntoTold, call: u64, back: u64) -> Entry {
    Entry::answered(operation, told.told(), call, back)
}

#[track_caller]
fn right(history: &[Entry]) {
    assert_eq!(check(history), Verdict::Linearizable);
}

/// Asserts that it is caught, and that this operation is named.
#[track_caller]
fn wrong(history: &[Entry], named: &str) {
    assert_eq!(check(history), Verdict::NotLinearizable, "{history:?}");
    let culprit = culprit(history).expect("a culprit").to_string();
    assert!(culprit.contains(named), "{named} is not what is named: {culprit}");
}

#[test]
fn one_after_the_other_is_right() {
    right(&[]);
    right(&[
        said(Read, Found(None), 0, 1),
        said(Replace(1), Missing, 2, 3),
        said(Create(2), Created, 4, 5),
        said(Create(3), Exists, 6, 7),
        said(Upsert(4), Replaced, 8, 9),
        said(Swap(2, 5), Other, 10, 11),
        said(Swap(4, 6), Replaced, 12, 13),
        said(Read, Found(Some(6)), 14, 15),
        said(DeleteIf(4), Unmet, 16, 17),
        said(DeleteIf(6), Removed, 18, 19),
        said(Delete, Missing, 20, 21),
        said(Swap(6, 7), Unmet, 22, 23),
        said(Upsert(8), Created, 24, 25),
        said(Delete, Removed, 26, 27),
        said(Read, Found(None), 28, 29),
    ]);
}

#[test]
fn a_lost_write_is_caught() {
    wrong(&[said(Create(1), Created, 0, 1), said(Read, Found(None), 2, 3)], "Found(None)");
    wrong(
        &[
            said(Create(1), Created, 0, 1),
            said(Upsert(2), Replaced, 2, 3),
            said(Read, Found(Some(1)), 4, 5),
        ],
        "Found(Some(1))",
    );
    // Also when it is another write that shows it.
    wrong(&[said(Create(1), Created, 0, 1), said(Upsert(2), Created, 2, 3)], "Upsert(2)");
    wrong(&[said(Create(1), Created, 0, 1), said(Delete, Missing, 2, 3)], "Delete");
}

#[test]
fn a_stale_read_is_caught() {
    // Both reads run beside the write; the one that begins after the other ended may not go back.
    let write = said(Upsert(2), Replaced, 10, 100);
    let first = said(Create(1), Created, 0, 1);
    let new = said(Read, Found(Some(2)), 20, 30);
    let old = |call, back| said(Read, Found(Some(1)), call, back);
    right(&[first.clone(), write.clone(), new.clone(), old(15, 25)]);
    wrong(&[first, write, new, old(40, 50)], "Found(Some(1))");
}

#[test]
fn a_double_create_is_caught() {
    let both = [said(Create(1), Created, 0, 10), said(Create(2), Created, 5, 15)];
    wrong(&both, "Create");
    // With a delete between them it is none.
    right(&[both[0].clone(), both[1].clone(), said(Delete, Removed, 6, 12)]);
}

#[test]
fn two_swaps_of_one_version_are_caught() {
    let create = said(Create(1), Created, 0, 1);
    let swaps = [said(Swap(1, 2), Replaced, 2, 10), said(Swap(1, 3), Replaced, 3, 9)];
    wrong(&[create, swaps[0].clone(), swaps[1].clone()], "Swap");
}

#[test]
fn a_resurrection_is_caught() {
    wrong(
        &[
            said(Create(1), Created, 0, 1),
            said(Delete, Removed, 2, 3),
            said(Read, Found(None), 4, 5),
            said(Read, Found(Some(1)), 6, 7),
        ],
        "Found(Some(1))",
    );
}

#[test]
fn a_refusal_that_nothing_justifies_is_caught() {
    wrong(&[said(Create(1), Exists, 0, 1)], "Exists");
    wrong(&[said(Create(1), Created, 0, 1), said(Swap(1, 2), Unmet, 2, 3)], "Unmet");
}

#[test]
fn what_nobody_knows_may_happen_at_any_time_or_never() {
    let lost = Entry::unknown(Create(1), 5);
    right(&[lost.clone(), said(Read, Found(None), 6, 7)]);
    right(&[lost.clone(), said(Read, Found(None), 6, 7), said(Read, Found(Some(1)), 900, 901)]);
    // Once only, and not before it was asked.
    let found = said(Read, Found(Some(1)), 6, 7);
    let gone = said(Delete, Removed, 8, 9);
    let again = said(Read, Found(Some(1)), 10, 11);
    right(&[lost.clone(), found.clone(), gone.clone()]);
    wrong(&[lost.clone(), found, gone, again], "Found(Some(1))");
    wrong(&[lost, said(Read, Found(Some(1)), 1, 2)], "Found(Some(1))");
    // A delete of which nobody knows explains an absence.
    right(&[
        said(Create(1), Created, 0, 1),
        Entry::unknown(Delete, 2),
        said(Read, Found(Some(1)), 3, 4),
        said(Create(2), Created, 50, 60),
    ]);
}

/// One copy that does one thing at a time.
fn really(state: State, operation: Operation) -> (State, Told) {
    let (state, answer) = match (operation, state) {
        (Read, state) => return (state, Found(state)),
        (Create(value) | Upsert(value), None) => (Some(value), Created),
        (Create(_), state) => (state, Exists),
        (Upsert(value) | Replace(value), Some(_)) => (Some(value), Replaced),
        (Swap(from, to), Some(held)) if from == held => (Some(to), Replaced),
        (Delete, Some(_)) => (None, Removed),
        (DeleteIf(from), Some(held)) if from == held => (None, Removed),
        (_, None) => (None, Missing),
        (_, state) => (state, Other),
    };
    (state, Ended(answer))
}

/// A history of `count` operations of five clients on such a copy: each takes effect somewhere between its call and its
/// return, some of the outcomes are lost.
fn history(rng: &mut SmallRng, count: u64) -> Vec<Entry> {
    let mut free = [0_u64; 5];
    let mut planned: Vec<(u64, u64, u64)> = Vec::new();
    for _ in 0..count {
        let client = rng.random_range(0..free.len());
        let call = free[client] + rng.random_range(1..20);
        let at = call + rng.random_range(1..30);
        let back = at + rng.random_range(1..30);
        planned.push((at, call, back));
        free[client] = back;
    }
    planned.sort_unstable();
    let (mut state, mut entries, mut last) = (None, Vec::new(), 0);
    for (number, (_, call, back)) in (1..).zip(planned) {
        let known = state.unwrap_or(last);
        let operation = match rng.random_range(0..8) {
            0 => Create(number),
            1 => Upsert(number),
            2 => Replace(number),
            3 => Swap(known, number),
            4 => Delete,
            5 => DeleteIf(known),
            _ => Read,
        };
        if rng.random_ratio(1, 25) {
            // Lost on the way, or on the way back.
            if rng.random() {
                state = really(state, operation).0;
            }
            entries.push(Entry::unknown(operation, call));
            continue;
        }
        let (after, told) = really(state, operation);
        (state, last) = (after, state.unwrap_or(last));
        entries.push(said(operation, told, call, back));
    }
    entries
}

/// What really happened is never called wrong, however long it is.
#[test]
fn what_one_copy_did_is_right() {
    let mut rng = SmallRng::seed_from_u64(seed());
    for length in [3, 10, 40, 150, 400] {
        for _ in 0..40 {
            let history = history(&mut rng, length);
            let verdict = check(&history);
            assert_eq!(verdict, Verdict::Linearizable, "{history:?}");
        }
    }
}

/// Whether what was told says the same as what really happened, as far as it is told apart.
fn fits(told: Told, really: Told) -> bool {
    let refusal = |told| matches!(told, Ended(Exists | Missing | Other | Unmet));
    let unsaid = |told| matches!(told, Ended(Exists | Other | Unmet));
    told == really || (unsaid(told) && refusal(really))
}

/// Whether some order explains it, by trying them all.
fn by_force(left: &[Entry], state: State) -> bool {
    if left.iter().all(|entry| entry.back == NEVER) {
        return true;
    }
    let first_back = left.iter().map(|entry| entry.back).min().unwrap_or(NEVER);
    (0..left.len()).any(|at| {
        let entry = &left[at];
        let (after, happened) = really(state, entry.operation);
        let fits = entry.told.is_none_or(|told| fits(told, happened));
        let rest = || [&left[..at], &left[at + 1..]].concat();
        entry.call <= first_back && fits && by_force(&rest(), after)
    })
}

/// Short histories with one answer changed: the search and the trying of all orders never disagree.
#[test]
fn the_search_agrees_with_trying_every_order() {
    let mut rng = SmallRng::seed_from_u64(seed() ^ 1);
    let (mut good, mut bad) = (0, 0);
    for _ in 0..4_000 {
        let mut history = history(&mut rng, 7);
        let changed = rng.random_range(0..history.len());
        let Entry { told, operation, .. } = &mut history[changed];
        let removes = matches!(operation, Delete | DeleteIf(_));
        if let Some(told) = told {
            *told = match *told {
                Found(_) => Found(rng.random::<bool>().then(|| rng.random_range(1..8))),
                Ended(Created) => Ended(Replaced),
                Ended(Removed) => Ended(Missing),
                Ended(_) if removes => Ended(Removed),
                Ended(Exists | Other) => Ended(Created),
                Ended(_) => Ended(Replaced),
            };
        }
        let expected = by_force(&history, None);
        let verdict = check(&history);
        assert_eq!(verdict == Verdict::Linearizable, expected, "{verdict:?}\n{history:?}");
        if expected { good += 1 } else { bad += 1 }
    }
    assert!(good > 200 && bad > 200, "{good} right, {bad} wrong: the test shows too little");
}
