//! What a process asks of the kernel about itself and the clock.

use rustix::io::Errno;

/// Makes this process ignore hang-up, termination, interrupt and broken pipe, so that only
/// `SIGKILL` and its own decision end it.
///
/// # Errors
/// What `signal(2)` says.
pub fn ignore_termination() -> Result<(), Errno> {
    for signal in [libc::SIGHUP, libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGPIPE] {
        // SAFETY: SIG_IGN installs no handler, so no code of ours runs in signal context.
        let before = unsafe { libc::signal(signal, libc::SIG_IGN) };
        if before == libc::SIG_ERR {
            return Err(last_error());
        }
    }
    Ok(())
}

/// Whether the kernel's clock is kept in step with a time source (`adjtimex(2)`).
///
/// # Errors
/// What `adjtimex(2)` says; some sandboxes forbid it.
pub fn clock_is_synchronised() -> Result<bool, Errno> {
    // SAFETY: all fields of `timex` are integers, for which zero is a value; modes 0 changes
    // nothing.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a whole `timex` that outlives the call.
    let clock = unsafe { libc::adjtimex(&raw mut state) };
    if clock < 0 {
        return Err(last_error());
    }
    Ok(clock != libc::TIME_ERROR && state.status & libc::STA_UNSYNC == 0)
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_answers_or_the_sandbox_refuses() {
        match clock_is_synchronised() {
            Ok(_) | Err(Errno::PERM | Errno::NOSYS) => {}
            Err(other) => panic!("{other}"),
        }
    }
}
