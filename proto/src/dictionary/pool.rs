//! Texts that many streams hold, once.

use std::sync::{Arc, Mutex, PoisonError};

use rustc_hash::FxHashSet;

use super::string_cost;

/// Texts below which nobody looks for those that no stream holds any more.
const LEAST_SWEPT: usize = 4_096;

/// Texts of the dictionaries of many streams. The pods of a service send the same
/// names; each is held once. A text that nothing else holds goes when the pool
/// has doubled since it was last looked through.
#[derive(Debug, Default)]
pub struct StringPool {
    texts: Mutex<Texts>,
}

#[derive(Debug, Default)]
struct Texts {
    held: FxHashSet<Arc<str>>,
    bytes: usize,
    /// How many there were when the pool was last looked through.
    swept: usize,
}

impl StringPool {
    /// The one copy of `text`.
    pub(super) fn intern(&self, text: &str) -> Arc<str> {
        let mut texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = texts.held.get(text) {
            return Arc::clone(known);
        }
        if texts.held.len() >= texts.swept.max(LEAST_SWEPT).saturating_mul(2) {
            texts.sweep();
        }
        let fresh: Arc<str> = Arc::from(text);
        texts.bytes += string_cost(text);
        texts.held.insert(Arc::clone(&fresh));
        fresh
    }

    /// Lets go of the texts that nothing else holds. Takes time in proportion to
    /// their number.
    pub fn sweep(&self) {
        let mut texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        texts.sweep();
    }

    /// About how many bytes the texts take.
    pub fn bytes(&self) -> usize {
        let texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        texts.bytes
    }
}

impl Texts {
    fn sweep(&mut self) {
        self.held.retain(|text| Arc::strong_count(text) > 1);
        self.bytes = self.held.iter().map(|text| string_cost(text)).sum();
        self.swept = self.held.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_one_and_what_nobody_holds_goes() {
        let pool = StringPool::default();
        let first = pool.intern("main.run");
        assert!(Arc::ptr_eq(&first, &pool.intern("main.run")));
        let lone = pool.bytes();
        for n in 0..LEAST_SWEPT * 3 {
            pool.intern(&format!("gone.{n}"));
        }
        let most = LEAST_SWEPT * 2 * string_cost("gone.12345");
        assert!(pool.bytes() <= lone + most, "{} bytes", pool.bytes());
        pool.sweep();
        assert_eq!(pool.bytes(), lone);
        assert!(Arc::ptr_eq(&first, &pool.intern("main.run")));
    }
}
