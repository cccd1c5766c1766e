// Package rfb is a small client of the remote framebuffer protocol (RFC 6143), as far as it takes to prove that a console answers: version,
// security and the server's first message. Versions 3.3, 3.7 and 3.8 with VNC authentication or none; no picture is fetched.
//
// Authenticate stops before the server has to open the machine's display; Handshake goes on until the server has shown its size and name.
// Both work on a connection that the caller dialled and will close, and set a deadline on it. An error is an *orchestrator.Error:
// Permanent when the server refused the password or speaks something else, Transient when the connection broke, and the context's own when
// the time was up.
package rfb
