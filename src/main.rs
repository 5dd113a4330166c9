//! The `tarishi` program: installs what is once per process, and hands over to the command line.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// For the many sockets: glibc's own asks the kernel for every page that the heap of a thread grows by, and a connect costs about 40 % more
/// with it.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    #[cfg(feature = "failpoints")]
    crash_where_asked();
    // Only the first installation counts, and nothing ran before this one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    tarishi::cli::main()
}

/// For tests: `TARISHI_ABORT_AT=NAME[:NTH]` ends the process at that pass of that fail point, the way a crash there would. A panic, which
/// fail points know by themselves, would end only one thread.
#[cfg(feature = "failpoints")]
fn crash_where_asked() {
    use std::sync::atomic::{AtomicU64, Ordering};

    let Ok(asked) = std::env::var("TARISHI_ABORT_AT") else { return };
    let (name, nth) = asked.split_once(':').unwrap_or((&asked, "1"));
    let nth: u64 = nth.parse().expect("TARISHI_ABORT_AT is NAME or NAME:NTH");
    let passes = AtomicU64::new(0);
    let crash = move || {
        if passes.fetch_add(1, Ordering::Relaxed) + 1 == nth {
            std::process::abort();
        }
    };
    fail::cfg_callback(name, crash).expect("a callback is an action of every fail point");
}
