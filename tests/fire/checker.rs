//! Tests the linearizability checker with histories whose verdict is known.

use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

use crate::{
    entry::{
        Entry, NEVER,
        Operation::{self, *},
        Response::{self, *},
        State, check, first_violation,
    },
    linearizability::Verdict,
    support::{
        objects::Answer::{self, *},
        seed,
    },
};

trait IntoResponse {
    fn response(self) -> Response;
}

impl IntoResponse for Response {
    fn response(self) -> Response {
        self
    }
}

impl IntoResponse for Answer {
    fn response(self) -> Response {
        Ended(self)
    }
}

fn answered(
    operation: Operation,
    response: impl IntoResponse,
    called_at: u64,
    returned_at: u64,
) -> Entry {
    Entry::answered(operation, response.response(), called_at, returned_at)
}

#[track_caller]
fn assert_linearizable(history: &[Entry]) {
    assert_eq!(check(history), Verdict::Linearizable);
}

/// Asserts that the history is not linearizable, and that the checker names this operation.
#[track_caller]
fn assert_violation(history: &[Entry], named: &str) {
    assert_eq!(check(history), Verdict::NotLinearizable, "{history:?}");
    let first_violation = first_violation(history).expect("no operation is named").to_string();
    assert!(first_violation.contains(named), "{named} is expected, and not {first_violation}");
}

#[test]
fn one_after_the_other_is_right() {
    assert_linearizable(&[]);
    assert_linearizable(&[
        answered(Read, Found(None), 0, 1),
        answered(Replace(1), Missing, 2, 3),
        answered(Create(2), Created, 4, 5),
        answered(Create(3), Exists, 6, 7),
        answered(Upsert(4), Replaced, 8, 9),
        answered(Swap(2, 5), Other, 10, 11),
        answered(Swap(4, 6), Replaced, 12, 13),
        answered(Read, Found(Some(6)), 14, 15),
        answered(DeleteIf(4), Unmet, 16, 17),
        answered(DeleteIf(6), Removed, 18, 19),
        answered(Delete, Missing, 20, 21),
        answered(Swap(6, 7), Unmet, 22, 23),
        answered(Upsert(8), Created, 24, 25),
        answered(Delete, Removed, 26, 27),
        answered(Read, Found(None), 28, 29),
    ]);
}

#[test]
fn a_lost_write_is_caught() {
    assert_violation(
        &[answered(Create(1), Created, 0, 1), answered(Read, Found(None), 2, 3)],
        "Found(None)",
    );
    assert_violation(
        &[
            answered(Create(1), Created, 0, 1),
            answered(Upsert(2), Replaced, 2, 3),
            answered(Read, Found(Some(1)), 4, 5),
        ],
        "Found(Some(1))",
    );
    // Also when it is another write that shows it.
    assert_violation(
        &[answered(Create(1), Created, 0, 1), answered(Upsert(2), Created, 2, 3)],
        "Upsert(2)",
    );
    assert_violation(
        &[answered(Create(1), Created, 0, 1), answered(Delete, Missing, 2, 3)],
        "Delete",
    );
}

#[test]
fn a_stale_read_is_caught() {
    // Both reads run beside the write; the one that begins after the other ended may not go back.
    let write = answered(Upsert(2), Replaced, 10, 100);
    let first = answered(Create(1), Created, 0, 1);
    let new = answered(Read, Found(Some(2)), 20, 30);
    let old = |called_at, returned_at| answered(Read, Found(Some(1)), called_at, returned_at);
    assert_linearizable(&[first.clone(), write.clone(), new.clone(), old(15, 25)]);
    assert_violation(&[first, write, new, old(40, 50)], "Found(Some(1))");
}

#[test]
fn a_double_create_is_caught() {
    let both = [answered(Create(1), Created, 0, 10), answered(Create(2), Created, 5, 15)];
    assert_violation(&both, "Create");
    // With a delete between them it is none.
    assert_linearizable(&[both[0].clone(), both[1].clone(), answered(Delete, Removed, 6, 12)]);
}

#[test]
fn two_swaps_of_one_version_are_caught() {
    let create = answered(Create(1), Created, 0, 1);
    let swaps = [answered(Swap(1, 2), Replaced, 2, 10), answered(Swap(1, 3), Replaced, 3, 9)];
    assert_violation(&[create, swaps[0].clone(), swaps[1].clone()], "Swap");
}

#[test]
fn a_resurrection_is_caught() {
    assert_violation(
        &[
            answered(Create(1), Created, 0, 1),
            answered(Delete, Removed, 2, 3),
            answered(Read, Found(None), 4, 5),
            answered(Read, Found(Some(1)), 6, 7),
        ],
        "Found(Some(1))",
    );
}

#[test]
fn a_refusal_that_nothing_justifies_is_caught() {
    assert_violation(&[answered(Create(1), Exists, 0, 1)], "Exists");
    assert_violation(
        &[answered(Create(1), Created, 0, 1), answered(Swap(1, 2), Unmet, 2, 3)],
        "Unmet",
    );
}

#[test]
fn what_nobody_knows_may_happen_at_any_time_or_never() {
    let lost = Entry::unknown(Create(1), 5);
    assert_linearizable(&[lost.clone(), answered(Read, Found(None), 6, 7)]);
    assert_linearizable(&[
        lost.clone(),
        answered(Read, Found(None), 6, 7),
        answered(Read, Found(Some(1)), 900, 901),
    ]);
    // Once only, and not before it was asked.
    let found = answered(Read, Found(Some(1)), 6, 7);
    let gone = answered(Delete, Removed, 8, 9);
    let again = answered(Read, Found(Some(1)), 10, 11);
    assert_linearizable(&[lost.clone(), found.clone(), gone.clone()]);
    assert_violation(&[lost.clone(), found, gone, again], "Found(Some(1))");
    assert_violation(&[lost, answered(Read, Found(Some(1)), 1, 2)], "Found(Some(1))");
    // A delete of which nobody knows explains an absence.
    assert_linearizable(&[
        answered(Create(1), Created, 0, 1),
        Entry::unknown(Delete, 2),
        answered(Read, Found(Some(1)), 3, 4),
        answered(Create(2), Created, 50, 60),
    ]);
}

/// The state and the response after one operation on a single copy.
fn apply(state: State, operation: Operation) -> (State, Response) {
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
        let called_at = free[client] + rng.random_range(1..20);
        let at = called_at + rng.random_range(1..30);
        let returned_at = at + rng.random_range(1..30);
        planned.push((at, called_at, returned_at));
        free[client] = returned_at;
    }
    planned.sort_unstable();
    let (mut state, mut entries, mut last) = (None, Vec::new(), 0);
    for (number, (_, called_at, returned_at)) in (1..).zip(planned) {
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
                state = apply(state, operation).0;
            }
            entries.push(Entry::unknown(operation, called_at));
            continue;
        }
        let (after, response) = apply(state, operation);
        (state, last) = (after, state.unwrap_or(last));
        entries.push(answered(operation, response, called_at, returned_at));
    }
    entries
}

/// A history of what really happened is always accepted, however long it is.
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

/// Whether a response fits the expected one. Some refusals cannot be told apart.
fn fits(response: Response, expected: Response) -> bool {
    let refusal = |response| matches!(response, Ended(Exists | Missing | Other | Unmet));
    let unsaid = |response| matches!(response, Ended(Exists | Other | Unmet));
    response == expected || (unsaid(response) && refusal(expected))
}

/// Whether some order explains it, by trying them all.
fn brute_force(left: &[Entry], state: State) -> bool {
    if left.iter().all(|entry| entry.returned_at == NEVER) {
        return true;
    }
    let first_return = left.iter().map(|entry| entry.returned_at).min().unwrap_or(NEVER);
    (0..left.len()).any(|at| {
        let entry = &left[at];
        let (after, happened) = apply(state, entry.operation);
        let fits = entry.response.is_none_or(|response| fits(response, happened));
        let rest = || [&left[..at], &left[at + 1..]].concat();
        entry.called_at <= first_return && fits && brute_force(&rest(), after)
    })
}

/// Short histories with one answer changed: the search and brute force always agree.
#[test]
fn the_search_agrees_with_trying_every_order() {
    let mut rng = SmallRng::seed_from_u64(seed() ^ 1);
    let (mut good, mut bad) = (0, 0);
    for _ in 0..4_000 {
        let mut history = history(&mut rng, 7);
        let changed = rng.random_range(0..history.len());
        let Entry { response, operation, .. } = &mut history[changed];
        let removes = matches!(operation, Delete | DeleteIf(_));
        if let Some(response) = response {
            *response = match *response {
                Found(_) => Found(rng.random::<bool>().then(|| rng.random_range(1..8))),
                Ended(Created) => Ended(Replaced),
                Ended(Removed) => Ended(Missing),
                Ended(_) if removes => Ended(Removed),
                Ended(Exists | Other) => Ended(Created),
                Ended(_) => Ended(Replaced),
            };
        }
        let expected = brute_force(&history, None);
        let verdict = check(&history);
        assert_eq!(verdict == Verdict::Linearizable, expected, "{verdict:?}\n{history:?}");
        if expected { good += 1 } else { bad += 1 }
    }
    assert!(good > 200 && bad > 200, "{good} right, {bad} wrong: the test shows too little");
}
