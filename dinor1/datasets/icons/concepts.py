"""Convert names of drawings to concepts: a concept is a category, and its drawings vary within the category."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable

from dinor1.datasets.icons.packs import Drawing


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words that name a style of drawing and not the object.
STYLE_WORDS = _words(
    """
    outline outlined filled fill rounded round sharp twotone variant alt solid icon sign symbol
    """
)
# Words that packs use for the same object or state.
SYNONYMS = {'slash': 'off', 'add': 'plus', 'person': 'account', 'user': 'account', 'close': 'x'}
# Words for the same object whose drawings differ too much for one concept. They have one head word, so that at most one
# of them is novel and no other is trained on.
HEAD_SYNONYMS = {
    word: words[0]
    for words in (
        line.split()
        for line in """
        account person people user face human man woman boy girl child group
        airplane flight plane jet
        alarm clock timer time schedule watch hourglass
        arrow caret chevron
        bell notification
        book library notebook
        bullhorn megaphone campaign
        camera photo
        car drive taxi automobile
        chat forum message comment sms bubble
        cloud backup weather
        cup mug coffee cafe
        delete trash bin
        edit pencil pen create
        emoticon smiley mood sentiment emoji
        envelope mail email drafts markunread inbox
        eye visibility
        file document note page article description
        fire flame whatshot campfire
        flag tour
        flower lotus spa florist
        gas fuel pump
        gear cog settings
        hammer build wrench tool handyman
        hash hashtag pound
        heart favorite
        fingerprint finger
        home house cottage foundation
        image gallery panorama
        laptop computer monitor desktop
        light lightbulb bulb lamp objects
        lightning bolt flash
        lock encryption padlock
        magnify magnifying search find
        marker pin place location room map
        mic microphone
        money cash payment dollar bank
        mountain terrain landscape
        palette lens color
        path route directions
        phone mobile device cell call tty
        puzzle extension
        refresh sync reload repeat cached autorenew
        restaurant dining food meal
        sort swap
        sound volume speaker audio
        star grade rating
        store shop storefront shopping
        sun brightness
        tag label
        target crosshair
        thermometer thermostat temperature
        tree forest nature park
        tram train subway railway
        trophy award
        tv television
        unarchive archive
        video movie film slate
        wine brandy
        warning exclamation alert danger report
        """.strip().splitlines()
    )
    for word in words
}
# Words that describe how an object is shown: its state, its direction, a mark in a corner or a frame. The head word of
# a name is the object itself.
MODIFIERS = _words(
    """
    off on plus minus check checked x alert lock locked unlock unlocked open opened closed edit cog settings
    search up down left right top bottom center middle horizontal vertical north south east west diagonal in out
    inside outside small big large mini double triple multiple half full empty low medium high circle square box
    triangle hexagon octagon rectangle dashed dotted start end begin first last next previous back forward new
    old simple classic text line lines of with and the a an to for from by at one two three four five six seven
    eight nine ten black white heavy light dark
    """
)
# Logos that packs do not mark as such.
BRANDS = _words(
    """
    adobe airbnb amazon android angular ansible apple atlassian aws azure babel bitbucket bitcoin blender
    bluetooth bootstrap chrome chromecast codepen concourse confluence css cordova digital discord docker dolby
    dropbox drupal electron emby ethereum evernote facebook fedora figma firebase firefox flickr flutter
    foursquare freebsd gatsby gentoo git github gitlab gmail gnome google graphql gradle hbo haskell heroku html
    hulu humble ibm instagram ios jabber jekyll jellyfish jenkins jira jquery kde kodi kotlin kubernetes laravel
    lastpass linkedin linux litecoin macos mastodon material mdi messenger meteor microsoft netflix nextcloud
    nix nintendo nodejs npm nuxt nvidia onedrive onepassword openid opera origin pandora patreon paypal
    pinterest playstation plex pocket polymer powershell qqchat quora raspberry react reddit redhat renren
    rollupjs ruby safari salesforce sass signal simple-icons sina skype slack snapchat soundcloud spotify sqlite
    stackoverflow steam svelte swift tailwind telegram terraform tiktok toyota trello twitch twitter typescript
    typo3 ubisoft ubuntu umbraco unity unreal venmo vimeo vine visualstudio vk vlc vuejs vuetify waze webflow
    webpack webrtc wechat whatsapp wikipedia windows wordpress xamarin xbox xing xmpp yahoo yelp youtube zigbee
    """
)
_SPLIT = re.compile(r'[-_ ]+')


def normalise(name: str) -> str:
    """Words of a concept's name, joined by spaces: ``bell-slash-outline`` becomes ``bell off``."""
    words = [SYNONYMS.get(word, word) for word in _SPLIT.split(name.lower()) if word]
    return ' '.join(word for word in words if word not in STYLE_WORDS)


def is_brand(concept: str, brands: Collection[str]) -> bool:
    """Whether a concept is a logo: the packs mark it as one, or its name begins with the name of a brand."""
    return concept.split()[0] in BRANDS or concept.replace(' ', '-') in brands


def is_sign(concept: str) -> bool:
    """Whether a name is that of a letter or a number, whose drawings show text and not an object."""
    words = concept.split()
    if len(concept) == 1 and concept != 'x':
        return True
    return any(any(c.isdigit() for c in word) for word in words) or words[0] in {'alpha', 'letter', 'numeric', 'number'}


def head_words(concept: str) -> frozenset[str]:
    """Words that name the object, in the singular, at most two.

    Names of icons begin with the object ("account plus"), and English compounds end with it ("shopping cart").
    Therefore both the first and the last word count, without modifiers. If a name only has modifiers, the whole name is
    its head.
    """
    words = [singular(word) for word in concept.split()]
    objects = [word for word in words if word not in MODIFIERS]
    objects = [HEAD_SYNONYMS.get(word, word) for word in objects]
    return frozenset((objects[0], objects[-1])) if objects else frozenset((' '.join(words),))


def singular(word: str) -> str:
    """Singular of a regular English plural."""
    if len(word) > 4 and word.endswith('ies'):
        return word[:-3] + 'y'
    if len(word) > 4 and word.endswith(('ches', 'shes', 'xes')):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith('s') and not word.endswith(('ss', 'us', 'is')) else word


def group_by_concept(drawings: Iterable[Drawing], brands: Collection[str] = ()) -> dict[str, list[Drawing]]:
    """Group drawings by concept, in alphabetical order, without brands, letters and numbers."""
    groups: dict[str, list[Drawing]] = defaultdict(list)
    known = {normalise(name).replace(' ', '-') for name in brands}
    for drawing in drawings:
        concept = normalise(drawing.name)
        if concept and not is_brand(concept, known) and not is_sign(concept):
            groups[concept].append(drawing)
    return {concept: groups[concept] for concept in sorted(groups)}
