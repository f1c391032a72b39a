//! Memory for a short time that goes back to the system: the allocator keeps large blocks it was
//! given back once for the next one, in as many arenas as there were threads.

use std::alloc::{Layout, handle_alloc_error};
use std::io;
use std::ptr::{self, NonNull};

/// Values in pages of their own.
pub struct Pages<T: Copy> {
    start: NonNull<T>,
    count: usize,
}

impl<T: Copy> Pages<T> {
    /// `count` times `value`. Ends the process where there is no memory, as the allocator does.
    pub fn filled(count: usize, value: T) -> Self {
        const { assert!(align_of::<T>() <= 4096 && size_of::<T>() > 0) };
        let layout = Layout::array::<T>(count.max(1)).expect("far below the address space");
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a mapping of its own, at an address that the kernel chooses.
        let start = unsafe { libc::mmap(ptr::null_mut(), layout.size(), protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            handle_alloc_error(layout);
        }
        let Some(start) = NonNull::new(start.cast::<T>()) else { handle_alloc_error(layout) };
        for index in 0..count {
            // SAFETY: within the mapping, which begins at a page and so is aligned.
            unsafe { start.add(index).write(value) };
        }
        Self { start, count }
    }
}

impl<T: Copy> AsMut<[T]> for Pages<T> {
    fn as_mut(&mut self) -> &mut [T] {
        // SAFETY: `count` values were written, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.count) }
    }
}

impl<T: Copy> Drop for Pages<T> {
    fn drop(&mut self) {
        let bytes = size_of::<T>() * self.count.max(1);
        // SAFETY: what `filled` has mapped, whole; nobody borrows it any more.
        let result = unsafe { libc::munmap(self.start.as_ptr().cast(), bytes) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Resident octets of this process.
    fn resident_bytes() -> u64 {
        let text = std::fs::read_to_string("/proc/self/statm").expect("there");
        let pages = text.split(' ').nth(1).expect("resident").parse::<u64>().expect("a number");
        pages * 4096
    }

    #[test]
    fn what_was_used_goes_back_to_the_system() {
        const BYTES: usize = 256 << 20;
        let before = resident_bytes();
        let mut pages = Pages::filled(BYTES / 8, 7_u64);
        assert!(pages.as_mut().iter().all(|it| *it == 7));
        pages.as_mut()[BYTES / 8 - 1] = 8;
        // Other tests run beside this one.
        assert!(resident_bytes() > before + BYTES as u64 / 2);
        drop(pages);
        assert!(resident_bytes() < before + BYTES as u64 / 2);
        assert!(Pages::filled(0, 0_u8).as_mut().is_empty());
    }
}
