//! "Did you mean": the known name that a misspelt one is nearest to.

/// The known name nearest to `name`, if one is near enough to be what was meant.
pub fn nearest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let limit = (name.len() / 3).clamp(1, 4);
    let candidates = known.filter(|other| other.len().abs_diff(name.len()) <= limit);
    candidates
        .map(|other| (distance(name, other), other))
        .filter(|(far, _)| *far <= limit)
        .min()
        .map(|(_, other)| other)
}

/// Edits (insert, delete, replace a byte) between two names. Names are short; longer ones are never near.
fn distance(a: &str, b: &str) -> usize {
    const LONGEST: usize = 128;
    if a.len() > LONGEST || b.len() > LONGEST {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (y, cell) in b.bytes().zip(row.iter_mut().skip(1)) {
            let replaced = diagonal + usize::from(!x.eq_ignore_ascii_case(&y));
            diagonal = *cell;
            left = replaced.min(diagonal + 1).min(left + 1);
            *cell = left;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_suggested() {
        let known = ["connect_timeout", "name", "type"];
        assert_eq!(nearest("conect_timeout", known.into_iter()), Some("connect_timeout"));
        assert_eq!(nearest("nmae", known.into_iter()), None);
        assert_eq!(nearest("xyz", known.into_iter()), None);
        assert_eq!(nearest("nam", known.into_iter()), Some("name"));
    }
}
