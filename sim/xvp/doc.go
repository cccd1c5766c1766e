// Package xvp stands in for xvp 1.16.0, the VNC proxy for XenServer, where the real program cannot be had: no Debian package holds it.
//
// It takes xvp's options -c -l -p -n -v -t -r and behaves as the source of xvp says in all that slipway relies on: it goes into the background
// at once and writes its pid file before it reads its configuration; it listens on every port of the file; SIGUSR1 has it read the file
// again, close every listener and bind it anew while sessions go on; a bad file, one without a VM, or a port that cannot be bound ends it
// and every session; SIGTERM ends it, SIGQUIT ends the sessions, SIGHUP opens the log anew; the pid file goes with it. Clients are
// authenticated by RFB 3.3, 3.7 or 3.8 with the password deciphered from the file.
//
// What it is not: its configuration is read by slipway's own parser, so it proves nothing about the grammar (that table was compared with
// the real program, see the tests of workers/console/xvp); it has no one-time passwords, no multiplex authentication (security type 22), no
// web pages; it listens on 127.0.0.1 unless told otherwise, where the real one takes every address; a session is a goroutine, not a process.
//
// With -xenapi HOST:PORT a console is fetched from a XenAPI server over TLS at that address, whatever the HOST lines say (the real program
// goes to port 443 of the pool's hosts): XML-RPC as the real one speaks it, then CONNECT. Without it a small picture is served.
package xvp
