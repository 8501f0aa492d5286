"""An RTSP server with a moving ball, for tests: GStreamer's, from Debian.

Packages: gir1.2-gst-rtsp-server-1.0 gstreamer1.0-rtsp python3-gi gstreamer1.0-plugins-ugly (x264).
Run with Debian's own python3: rtsp_server.py PORT [FILE.mp4|COLOUR] [udp]; it prints "ready", then serves
rtsp://127.0.0.1:PORT/live: the ball, the file (which has a length, and says so), or one colour as BT.709; "udp": over
UDP alone.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

DRAWN = (
    "( videotestsrc is-live=true pattern={} ! video/x-raw,format=I420,width=160,height=120,framerate=10/1,"
    "colorimetry=bt709 ! x264enc tune=zerolatency key-int-max=5 speed-preset=ultrafast "
    "! rtph264pay config-interval=-1 name=pay0 pt=96 )"
)
FILE = "( filesrc location={} ! qtdemux ! h264parse ! rtph264pay name=pay0 pt=96 )"


def pipeline() -> str:
    what = sys.argv[2] if len(sys.argv) > 2 else "ball"
    return (FILE if what.endswith(".mp4") else DRAWN).format(what)


if __name__ == "__main__":
    Gst.init(None)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(pipeline())
    factory.set_shared(not pipeline().startswith("( filesrc"))
    if sys.argv[3:] == ["udp"]:
        factory.set_protocols(GstRtsp.RTSPLowerTrans.UDP)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(sys.argv[1])
    server.get_mount_points().add_factory("/live", factory)
    server.attach(None)
    print("ready", flush=True)
    GLib.MainLoop().run()
