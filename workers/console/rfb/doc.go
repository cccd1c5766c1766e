// Package rfb is both ends of the remote framebuffer protocol's handshake (RFC 6143): version, security and the server's first message.
// Versions 3.3, 3.7 and 3.8 with VNC authentication or none; what follows, the picture, is nothing to this package.
//
// Authenticate stops before the server has to open the machine's display; Handshake goes on until the server has shown its size and name.
// Greet is the server's end, for a gateway that lets viewers in itself.
// All work on a connection that the caller dialled and will close, and set a deadline on it. An error is an *orchestrator.Error:
// Permanent when the server refused the password or speaks something else, Transient when the connection broke, and the context's own when
// the time was up.
package rfb
