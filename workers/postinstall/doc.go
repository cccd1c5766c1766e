// Package postinstall turns a machine that has just booted from a template into its customer's: a catalogue of data, one folder for
// each family of operating systems, says what to run; the packages below it (ssh) say how.
//
// How to add an operating system: make a folder in templates/postinstall with a manifest.yaml and its scripts, and say in the contract test
// how its template looks. No other Go is needed. A manifest that extends another entry says only what differs: its keys and its files
// stand in place of the other's, its constants (params) are added to them. A folder whose name begins with an underscore has scripts
// for others and is no entry.
//
// How to add a panel on top: make a folder with an addon.yaml that names the images it can be put on; each is offered as IMAGE-ADDON too,
// with the system's steps first and the checks of both last. It is offered only once an operator has put a pin.yaml beside it, with the
// address and the SHA-256 of the installer to run.
//
// A script finds its parameters in $SLIPWAY_JOB/env (source it), its files in $SLIPWAY_JOB/files and its secret files in
// $SLIPWAY_JOB/secrets; all are readable by root alone, and the secrets are removed once the job has succeeded. A script may be run again from its beginning after a reboot in its middle: it must be
// idempotent. Its working directory is $SLIPWAY_JOB, its standard input is empty, its output goes to the job's log,
// and a line that it writes to $SLIPWAY_JOB/stage is what operators see it wait for. Exit codes 80 to 89 are for what no repetition
// changes (see Failure); of any other code the job may be tried again.
package postinstall
