// Package xvp gives customers a VNC console through xvp, the VNC proxy for XenServer: Render writes the file of a console group from its rows,
// Parse is the gate that every file passes, and Unit drives the xvp process on its host for the agent.
//
// Whose file is whose. xvp is started with the site's own file; ours is another one, which the site's includes at its end:
//
//	# /etc/xvp.conf, the site's: never written by slipway
//	POOL "what was here before"
//	  …
//	INCLUDE "/etc/xvp/slipway.conf"
//
// So the site's pools stay byte for byte what they are, also while somebody edits them. The two are judged together, since names of pools
// and ports are common to both; where they clash ours gives way. A host that serves nobody else may start xvp with our file itself. A file in our place that lacks the Marker is
// somebody else's, and is not written over.
//
// What xvp is like. It has no way to check a file and ends on a bad one, on a pool without a VM, and on a port that it cannot bind, and its
// end ends every session: hence the parser, which takes no file that xvp refuses, and hence Unit stops xvp for an empty configuration instead
// of having it read one. Encrypted passwords are readable by anyone who has the file: it has mode 0600, and xvp's XenAPI account is one of its own.
//
// What was proven on what. xvp 1.16.0 is in no Debian package, so the tests here run slipway/sim/xvp in its place, a process that reads our
// parser's grammar and would share its mistakes. Against those stands this record, made with xvp 1.16.0 built from its source, its XenAPI part
// left out: the passwords of testdata/passwords.txt were printed by it; every row of the grammar table, and the golden files, were given to it;
// of 6,000 files made by chance from that table none passed Parse that it refused or read out of bounds; and the tests of Unit were run on
// it. Set SLIPWAY_TEST_XVP to such a program and the tests do all this again, save for the files made by chance. A picture from a real
// hypervisor through the real xvp has not been seen here.
package xvp
