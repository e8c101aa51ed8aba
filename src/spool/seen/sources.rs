//! The names of sources, each kept once, however many products it has won.

use std::collections::HashMap;
use std::sync::Arc;

/// Which source, in four bytes instead of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SourceId(u32);

#[derive(Debug)]
struct Place {
    name: Arc<str>,
    products: usize,
}

/// The table. A name goes with the last product that it won, so there are no more names than products.
#[derive(Debug, Default)]
pub(super) struct Sources {
    places: Vec<Place>,
    by_name: HashMap<Arc<str>, u32>,
    free: Vec<u32>,
}

impl Sources {
    /// One more product of this source.
    pub fn take(&mut self, name: &str) -> SourceId {
        if let Some(known) = self.by_name.get(name) {
            self.places[*known as usize].products += 1;
            return SourceId(*known);
        }
        let name: Arc<str> = name.into();
        let place = Place {
            name: Arc::clone(&name),
            products: 1,
        };
        let id = match self.free.pop() {
            Some(id) => {
                self.places[id as usize] = place;
                id
            }
            None => {
                self.places.push(place);
                (self.places.len() - 1) as u32
            }
        };
        self.by_name.insert(name, id);
        SourceId(id)
    }

    /// One product less.
    pub fn release(&mut self, SourceId(id): SourceId) {
        let place = &mut self.places[id as usize];
        place.products -= 1;
        if place.products == 0 {
            self.by_name.remove(&place.name);
            place.name = "".into();
            self.free.push(id);
        }
    }

    /// Its name.
    pub fn name(&self, SourceId(id): SourceId) -> &Arc<str> {
        &self.places[id as usize].name
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.by_name.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_goes_with_its_last_product_and_its_place_is_used_again() {
        let mut sources = Sources::default();
        let (one, again, two) = (sources.take("one"), sources.take("one"), sources.take("two"));
        assert_eq!(one, again);
        sources.release(one);
        assert_eq!((&**sources.name(again), sources.len()), ("one", 2));
        sources.release(again);
        let three = sources.take("three");
        assert_eq!((three, sources.len(), sources.places.len()), (one, 2, 2));
        assert_eq!((&**sources.name(two), &**sources.name(three)), ("two", "three"));
    }
}
