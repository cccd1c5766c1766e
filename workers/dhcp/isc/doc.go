// Package isc drives ISC dhcpd 4.4. Render, on the controller's side, makes the file of host blocks; Unit, on the appliance's side, puts
// it in place, judges it, restarts dhcpd and proves it.
//
// The main configuration is the site's and includes our file. What shaped this package, measured on 4.4.3-P1:
//
//   - dhcpd has no reload: SIGHUP kills it. A restart with 10,000 hosts takes less than 0.1 s, and leases survive it in their file.
//   - `dhcpd -t` refuses bad syntax and two blocks of one name. It accepts two blocks of one MAC or one address, and an address outside
//     every subnet, whose guest then gets nothing: Render refuses these.
//   - `dhcpd -t` on the main file reads the live include, so a candidate is judged through a copy of main that includes it.
//   - A fixed-address host leaves no record in dhcpd.leases.
package isc
