//! "Did you mean": the known word nearest to an unknown one.

/// The one of `known` that `word` is a slip of the keyboard away from: two letters, or one in a short word.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let n_letters = word.chars().count();
    let tolerated = if n_letters <= 3 { 1 } else { 2 };
    // Who breaks off early means what begins so, rather than what looks alike: `prot` is `protocol`, and not `port`.
    let apart = |candidate: &str| if n_letters >= 3 && candidate.starts_with(word) { 1 } else { distance(word, candidate) };
    known
        .into_iter()
        .map(|candidate| (apart(candidate), candidate))
        .filter(|(distance, _)| *distance <= tolerated)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// How many letters must be inserted, removed or replaced to make `a` of `b` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    // One row of the usual matrix: row[j] is the distance of what was read of `a` to the first j letters of `b`.
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (above, other) in row.iter_mut().skip(1).zip(&b) {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = *above;
            left = replaced.min(diagonal + 1).min(left + 1);
            *above = left;
        }
        row[0] = i + 1;
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_the_letters_that_differ() {
        for (a, b, expected) in
            [("", "", 0), ("", "vip", 3), ("vip", "vip", 0), ("vpi", "vip", 2), ("prot", "port", 2), ("kitten", "sitting", 3)]
        {
            assert_eq!((distance(a, b), distance(b, a)), (expected, expected), "{a} {b}");
        }
    }

    #[test]
    fn only_a_near_word_is_suggested() {
        assert_eq!(nearest("weigth", ["address", "weight"]), Some("weight"));
        assert_eq!(nearest("vip4", ["vip"]), Some("vip"));
        assert_eq!(nearest("prot", ["port", "protocol"]), Some("protocol"));
        assert_eq!(nearest("least-conn", ["random", "least-connections"]), Some("least-connections"));
        assert_eq!(nearest("po", ["protocol", "port"]), None);
        assert_eq!(nearest("colour", ["address", "weight"]), None);
        assert_eq!(nearest("ab", ["vip"]), None);
    }
}
