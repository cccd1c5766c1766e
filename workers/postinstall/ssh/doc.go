// Package ssh installs guests over SSH: orchestrator.Installer for the Linux entries of the catalogue.
//
// A job is detached. Its bundle is uploaded as one archive, it runs in a session of its own, once for each job id, and writes its process,
// log and exit code into files of the guest; runner.sh is the whole of the guest's side. So a dropped connection, a restart of ours and
// a second worker change nothing, and a job that a reboot cut off is told from one that still runs.
//
// A guest is never trusted blindly: it must show the template's host key, or the one that was made for this machine, and after the
// latter has been seen only that. Only algorithms of the accepted keys are offered, for a server with several keys would else choose
// one that nobody knows. What a template's key proves is weaker: whoever had a clone of that template could have read it before the
// reset. So it counts for the first contact alone, while the machine's address is reserved for it and only the installer may come in.
//
// There is no PTY: with one, closing the session would kill the job and its two outputs would be mixed.
package ssh
