//! Memory that direct I/O accepts.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Alignment of memory, offset and length that direct I/O asks for on every disk we know.
pub const BLOCK_BYTES: usize = 4096;

/// Zeroed bytes, aligned to `BLOCK_BYTES`, a whole number of blocks long.
pub struct AlignedBuffer {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the buffer owns its memory alone.
unsafe impl Send for AlignedBuffer {}

impl AlignedBuffer {
    /// At least `bytes` long, rounded up to whole blocks; not empty.
    pub fn new(bytes: usize) -> Self {
        let bytes = bytes.max(1).next_multiple_of(BLOCK_BYTES);
        // SAFETY: the layout has a size above zero.
        let start = unsafe { alloc_zeroed(layout(bytes)) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout(bytes)) };
        Self { start, bytes }
    }

    /// Makes the buffer at least `bytes` long; what it holds stays.
    pub fn grow(&mut self, bytes: usize) {
        if bytes > self.bytes {
            let mut larger = AlignedBuffer::new(bytes);
            larger[..self.bytes].copy_from_slice(self);
            *self = larger;
        }
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `bytes` initialised bytes from `start` are ours for as long as `self` lives.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout in `new`.
        unsafe { dealloc(self.start.as_ptr(), layout(self.bytes)) }
    }
}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, BLOCK_BYTES).expect("a buffer is far below the address space")
}
