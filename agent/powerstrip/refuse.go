package powerstrip

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/jsonobject"
)

// prefix starts each of our messages that a Docker client shows.
const prefix = "socketplane: "

// maxSentence bounds the message of a rejection in a request, in bytes, because it is also
// in the request line.
const maxSentence = 1000

// sentence returns the message that a Docker client shows, as one line.
func sentence(err error) string {
	s := prefix + strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r <= ' ' || r == 0x7f }), " ")
	if len(s) > maxSentence {
		s = s[:maxSentence]
	}
	return strings.ToValidUTF8(s, "")
}

// refusedCreate returns the request that makes Powerstrip reject a container. Powerstrip
// ignores the status of an adapter's response, and hangs if the response has no
// ModifiedClientRequest. So it gets a request that dockerd rejects with our message in the
// error: it creates a container with an invalid variable, which dockerd checks before it
// looks for the image. dockerd versions without this check reject the container's name,
// which is also invalid.
func refusedCreate(request *jsonobject.Object, err error) *jsonobject.Object {
	if request == nil {
		request = jsonobject.New()
	}
	path := "/containers/create"
	var method, target string
	if json.Unmarshal(request.Get("Method"), &method) == nil && json.Unmarshal(request.Get("Request"), &target) == nil {
		if asked, _, _ := strings.Cut(target, "?"); IsCreate(method, asked) {
			path = asked
		}
	}
	says := sentence(err)
	body := jsonobject.New()
	body.Set("Image", jsonobject.String("refused-by-socketplane"))
	body.Set("Env", append(append(json.RawMessage("["), jsonobject.String("="+says)...), ']'))
	body.Set("HostConfig", json.RawMessage("{}"))
	request.Set("Method", jsonobject.String(http.MethodPost))
	request.Set("Request", jsonobject.String(path+"?name="+url.QueryEscape(says)))
	request.Set("Body", jsonobject.String(string(body.Bytes())))
	return request
}

// isUnread reports whether a message was not read to its end for a reason that
// Powerstrip's client should see.
func isUnread(err error) bool {
	return errors.Is(err, errTooLarge) || errors.Is(err, os.ErrDeadlineExceeded)
}

// refusedUnread answers a message that was not read to its end. Only a pre-hook can be
// that large, because it contains the client's data.
func refusedUnread(err error) json.RawMessage {
	m := jsonobject.New()
	m.Set("PowerstripProtocolVersion", json.RawMessage(strconv.Itoa(Protocol)))
	m.Set("ModifiedClientRequest", refusedCreate(nil, err).Bytes())
	return m.Bytes()
}

// refusedResponse returns the client's response if the hook's message has none.
func refusedResponse(err error) *jsonobject.Object {
	body := jsonobject.New()
	body.Set("message", jsonobject.String(sentence(err)))
	response := jsonobject.New()
	response.Set("ContentType", jsonobject.String("application/json"))
	response.Set("Body", jsonobject.String(string(body.Bytes())))
	response.Set("Code", json.RawMessage(strconv.Itoa(http.StatusBadRequest)))
	return response
}

// writeError writes an error with its status and message in dockerd's format.
func writeError(w http.ResponseWriter, err error) {
	status := api.CodeOf(err).HTTPStatus()
	switch {
	case status == http.StatusNotFound: // Docker's client would try to pull an image
		status = http.StatusBadRequest
	case errors.Is(err, errTooLarge):
		status = http.StatusRequestEntityTooLarge
	case errors.Is(err, os.ErrDeadlineExceeded):
		status = http.StatusRequestTimeout
	}
	if status == http.StatusRequestEntityTooLarge || status == http.StatusRequestTimeout {
		w.Header().Set("Connection", "close") // the rest of the body is not read
	}
	Refuse(w, status, err.Error())
}

// Refuse writes an error with a status and a message in dockerd's format.
func Refuse(w http.ResponseWriter, status int, message string) {
	o := jsonobject.New()
	o.Set("message", jsonobject.String(prefix+message))
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(o.Bytes(), '\n')) // the caller has gone if this fails
}
