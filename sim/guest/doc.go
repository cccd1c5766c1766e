// Package guest simulates Linux machines for demos and tests. A guest is a real SSH server: whoever installs it uses the wire, the keys
// and the very scripts that a real machine would get. The scripts really run, in an interpreter (mvdan.cc/sh) in this process, but
// every file they touch lies under the guest's own folder and every program they call is emulated here: nothing can reach the machine
// that the simulator runs on. A program that is not emulated "is not found" (127).
//
// Nobody is reached from inside: curl gets what the configuration's Fetch gives, and nothing without one.
//
// What is not simulated: permissions (everybody is root), other users' processes, terminals, sftp and forwarding.
package guest
