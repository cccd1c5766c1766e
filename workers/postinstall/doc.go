// Package postinstall turns a machine that has just booted from a template into its customer's: a catalogue of data, one folder for
// each family of operating systems, says what to run; the packages below it (ssh) say how.
//
// How to add an operating system: make a folder in templates/postinstall with a manifest.yaml and its scripts. No Go is needed.
//
// A script finds its parameters in $SLIPWAY_JOB/env (source it), its files in $SLIPWAY_JOB/files and its secret files in
// $SLIPWAY_JOB/secrets; all are readable by root alone, and the secrets are removed once the job has succeeded. A script may be run again from its beginning after a reboot in its middle: it must be
// idempotent. Its working directory is $SLIPWAY_JOB, its standard input is empty, its output goes to the job's log,
// and a line that it writes to $SLIPWAY_JOB/stage is what operators see it wait for.
package postinstall
