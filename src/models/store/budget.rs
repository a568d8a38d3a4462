//! Which models go when there is no room for a new one. [pure]

/// Something that takes space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item<I> {
    /// What it is.
    pub id: I,
    /// Bytes on disk.
    pub bytes: u64,
    /// Since when it is here, in milliseconds since 1970.
    pub since_ms: i64,
    /// A version that is not whole yet: goes after the whole ones that nobody uses.
    pub partial: bool,
    /// In use, or wanted: never goes.
    pub stays: bool,
}

/// There is no room, whatever goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRoom {
    /// Bytes of what stays.
    pub staying: u64,
}

/// What must go, first the oldest, so that `bytes` more are within `bytes_max`.
pub fn make_room<I: Clone + Ord>(items: &[Item<I>], bytes: u64, bytes_max: u64) -> Result<Vec<I>, NoRoom> {
    let mut held: u64 = items.iter().fold(0, |sum, item| sum.saturating_add(item.bytes));
    let mut going: Vec<&Item<I>> = items.iter().filter(|item| !item.stays).collect();
    going.sort_by(|a, b| (a.partial, a.since_ms, &a.id).cmp(&(b.partial, b.since_ms, &b.id)));
    let mut gone = Vec::new();
    let mut going = going.into_iter();
    while held.saturating_add(bytes) > bytes_max {
        let Some(item) = going.next() else { return Err(NoRoom { staying: held }) };
        held -= item.bytes;
        gone.push(item.id.clone());
    }
    Ok(gone)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(crate::models::tests::cases(2_000)))]

        #[test]
        fn what_goes_is_enough_no_more_than_needed_the_oldest_and_nothing_that_stays(
            items in prop::collection::vec((0_u64..100, 0_i64..5, any::<bool>(), any::<bool>()), 0..8),
            bytes in 0_u64..200,
            bytes_max in 0_u64..500,
        ) {
            let items: Vec<Item<usize>> = items.into_iter().enumerate()
                .map(|(id, (bytes, since_ms, partial, stays))| Item { id, bytes, since_ms, partial, stays }).collect();
            let sum = |keep: &dyn Fn(&Item<usize>) -> bool| items.iter().filter(|i| keep(i)).map(|i| i.bytes).sum::<u64>();
            match make_room(&items, bytes, bytes_max) {
                Err(no) => {
                    prop_assert_eq!(no.staying, sum(&|i| i.stays));
                    prop_assert!(no.staying + bytes > bytes_max);
                }
                Ok(gone) => {
                    prop_assert!(gone.iter().all(|id| !items[*id].stays));
                    prop_assert!(sum(&|i| !gone.contains(&i.id)) + bytes <= bytes_max);
                    let age = |i: &Item<usize>| (i.partial, i.since_ms, i.id);
                    if let Some(last) = gone.last() {
                        prop_assert!(sum(&|i| !gone.contains(&i.id) || i.id == *last) + bytes > bytes_max);
                        prop_assert!(items.iter().filter(|i| !i.stays && !gone.contains(&i.id)).all(|i| age(i) > age(&items[*last])));
                    }
                }
            }
        }
    }
}
