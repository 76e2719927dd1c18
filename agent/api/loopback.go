package api

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// NoBrowser serves h to programs and not to web pages: whoever may open a page
// on this host must not have the page speak to it. A browser tells itself by
// the header Origin or Sec-Fetch-Site. With loopback, the name that the client
// called has to be one of this host's too, since a page's own name may be made
// to lead here (DNS rebinding). refuse writes the answer.
func NoBrowser(h http.Handler, loopback bool, refuse func(w http.ResponseWriter, status int, message string)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		site := r.Header.Get("Sec-Fetch-Site")
		switch {
		case !ownOrigin(r, loopback) || site != "" && site != "none":
			refuse(w, http.StatusForbidden, "requests of web pages are refused (header Origin or Sec-Fetch-Site)")
		case loopback && r.Host != "" && !IsLoopback(r.Host):
			refuse(w, http.StatusForbidden, "the request is for host "+shown(r.Host)+"; only localhost and its addresses are served here")
		default:
			h.ServeHTTP(w, r)
		}
	})
}

// ownOrigin says whether a request comes from no page. Some libraries for
// websockets name what they call themselves as the origin; no page comes from there.
func ownOrigin(r *http.Request, loopback bool) bool {
	origin := r.Header.Get("Origin")
	return origin == "" || loopback && origin == "http://"+r.Host
}

// IsLoopback says whether host, with or without a port, can be no other machine.
func IsLoopback(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if strings.EqualFold(strings.TrimSuffix(host, "."), "localhost") {
		return true
	}
	a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"))
	return err == nil && a.Unmap().IsLoopback()
}
