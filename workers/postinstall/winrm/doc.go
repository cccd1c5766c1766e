// Package winrm installs guests over WinRM: orchestrator.Installer for the Windows entries of the catalogue.
//
// A job is the one of package ssh: detached, once for each job id, with its process, log and exit code in files of the guest; runner.ps1
// is the whole of the guest's side. Beyond that a job may restart its guest: a step that ends with exit code 3010 is done, the runner
// restarts Windows, and the job's scheduled task goes on with the next step. So a guest that does not answer while its job is observed
// is one that may be restarting: the job counts as running and its stage says what happens; the row's budget bounds the wait.
//
// # The wire
//
// The messages are those that github.com/masterzen/winrm builds; sending them and reading the answers is done here. That library's
// requests know no context and follow HTTP_PROXY, its parsers take a fault for an empty answer and bad base64 for no output, and its
// message encryption falls back to the clear when the login fails. Here each call has one connection, which ends with the call's context
// and is never dialled again, for NTLM proves a connection and not a request.
//
// HTTPS with NTLM is the default. The certificate must be the template's, pinned by its SHA-256, or the machine's own: one that carries
// the signature of the machine's host key over its public key (see certificate.go). After the machine's own has been seen, it is the
// only one accepted. Basic is possible over HTTPS alone. HTTP must be configured in so many words; it seals every message with the NTLM
// session's keys, and never sends one in the clear.
//
// A command line is a constant of about 2,000 characters (cmd.exe's limit is 8,191): a bootstrap that reads the runner, its words and
// what is uploaded from standard input, which arrives in chunks. Nothing from an order and no secret is ever part of a command line.
//
// # The template
//
// It was sysprepped, has a local administrator "slipway" whose password the configuration knows, LocalAccountTokenFilterPolicy set (as
// `winrm quickconfig` does), and an HTTPS listener for WinRM with the pinned certificate, which SetupComplete.cmd puts in place again.
// Leave removes that account. No real Windows was available to prove any of this; see slipway/sim/winrm.
package winrm
