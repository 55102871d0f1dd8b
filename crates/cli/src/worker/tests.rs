use super::*;

#[test]
fn the_worker_is_looked_for_beside_the_program_then_in_libexec() {
    let paths = candidates(Path::new("/usr/local/bin/apt-ostree"));
    assert_eq!(
        paths,
        [
            "/usr/local/bin/apt-ostree-worker",
            "/usr/local/libexec/apt-ostree/apt-ostree-worker",
            "/usr/libexec/apt-ostree/apt-ostree-worker",
        ]
        .map(PathBuf::from)
    );
    assert_eq!(candidates(Path::new("/usr/bin/apt-ostree")).len(), 2);
}

#[test]
fn the_environment_names_another_worker() {
    let chosen = find(Some("/opt/worker".into())).unwrap();
    assert_eq!(chosen, PathBuf::from("/opt/worker"));
}

#[test]
fn a_worker_that_dies_is_told_with_its_last_words() {
    let killed = ExitStatus::from_raw(9);
    assert_eq!(death_text(killed, &[]), "the worker died of signal 9");
    let ended = ExitStatus::from_raw(3 << 8);
    assert_eq!(
        death_text(ended, &["last words".to_owned()]),
        "the worker ended with status 3 and without an answer\nlast words"
    );
}

#[test]
fn the_end_of_the_worker_decides_when_there_is_no_answer() {
    let end = |cancels, end, status| {
        let progress = Progress {
            end,
            log: Vec::new(),
            cancels,
        };
        let mut view = View::new(crate::cli::Verbosity::default(), true);
        progress.conclude(ExitStatus::from_raw(status), &mut view)
    };
    let downloaded = Outcome::Downloaded {
        packages: 1,
        bytes: 1,
    };
    // An answer counts, even when the process dies of something else afterwards.
    assert_eq!(end(0, Some(Ok(downloaded.clone())), 11), Ok(downloaded));
    assert_eq!(end(1, None, 15).unwrap_err().kind, ErrorKind::Cancelled);
    assert_eq!(end(0, None, 15).unwrap_err().kind, ErrorKind::Failed);
    // Without an answer not even a good exit status is a success.
    assert_eq!(end(0, None, 0).unwrap_err().kind, ErrorKind::Failed);
}
