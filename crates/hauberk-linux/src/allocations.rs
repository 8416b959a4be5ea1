//! Counting what is asked of the allocator, to tell what a request costs.
//!
//! A program that wants to be counted makes [`Counting`] its global allocator, around the one it
//! would have. No program does so unless it was built for it: two atomic additions for each
//! allocation are little, but not nothing.

use std::{
    alloc::{GlobalAlloc, Layout},
    sync::atomic::{AtomicU64, Ordering},
};

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

/// An allocator that counts, and leaves the work to another.
#[derive(Debug)]
pub struct Counting<A> {
    inner: A,
}

impl<A> Counting<A> {
    /// Around this one.
    pub const fn new(inner: A) -> Self {
        Self { inner }
    }
}

#[expect(unsafe_code, reason = "allocators are unsafe by their trait")]
// SAFETY: every call goes to the inner allocator unchanged, and what it returns is returned; so
// this one keeps the promises that the inner one keeps. Counting does not allocate.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Counting<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises are those the inner allocator wants.
        unsafe { self.inner.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as above.
        unsafe { self.inner.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size.saturating_sub(layout.size()));
        // SAFETY: as above; the pointer came from the inner allocator.
        unsafe { self.inner.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; the pointer came from the inner allocator.
        unsafe { self.inner.dealloc(pointer, layout) }
    }
}

fn count(bytes: usize) {
    ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    BYTES.fetch_add(bytes as u64, Ordering::Relaxed);
}

/// What was asked of the allocator since the start of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Allocations, and times that one was made larger or smaller.
    pub allocations: u64,
    /// Bytes of the allocations, and by how much they grew.
    pub bytes: u64,
}

/// The counts; `None` in a program that does not count.
pub fn counted() -> Option<Counted> {
    let allocations = ALLOCATIONS.load(Ordering::Relaxed);
    // Nothing reaches this line without having allocated.
    (allocations > 0).then(|| Counted { allocations, bytes: BYTES.load(Ordering::Relaxed) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::alloc::System;

    #[test]
    fn counts_what_it_is_asked_for() {
        assert_eq!(counted(), None, "these tests run with another allocator");
        let allocator = Counting::new(System);
        let layout = Layout::array::<u8>(100).unwrap();
        #[expect(unsafe_code, reason = "a test of an allocator")]
        // SAFETY: the layout is not empty; each pointer is used once, with its own layout.
        unsafe {
            let pointer = allocator.alloc(layout);
            assert!(!pointer.is_null());
            let pointer = allocator.realloc(pointer, layout, 150);
            assert!(!pointer.is_null());
            allocator.dealloc(pointer, Layout::array::<u8>(150).unwrap());
            let pointer = allocator.alloc_zeroed(layout);
            assert!(!pointer.is_null());
            assert_eq!(pointer.read(), 0);
            allocator.dealloc(pointer, layout);
        }
        assert_eq!(counted(), Some(Counted { allocations: 3, bytes: 250 }));
    }
}
