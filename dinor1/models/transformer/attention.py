"""Multi-head attention that does not return its attention weights."""

from mmcv.cnn.bricks.transformer import MultiheadAttention as _MMCVAttention
from torch import Tensor


class BatchFirstMultiheadAttention(_MMCVAttention):
    """MMCV's module with the same parameters, always batch first.

    MMCV requests the attention weights, averaged over the heads, and discards them. Without that request torch uses its
    fused kernel, which stores no (bs, heads, num_queries, num_keys) matrix: for 900 queries this is three to four times
    as fast on a CPU. Also, keys get a position only if one is given, whereas MMCV adds the position of the *queries* if
    its shape happens to fit.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        identity: Tensor | None = None,
        query_pos: Tensor | None = None,
        key_pos: Tensor | None = None,
        attn_mask: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        **kwargs,
    ) -> Tensor:
        """Attend.

        Args:
            query: (bs, num_queries, C).
            key: (bs, num_keys, C). Default: ``query``, and ``key_pos`` then defaults to ``query_pos``.
            value: (bs, num_keys, C). Default: ``key``.
            identity: (bs, num_queries, C) added to the result. Default: ``query``.
            query_pos: (bs, num_queries, C) added to the queries.
            key_pos: (bs, num_keys, C) added to the keys.
            attn_mask: (num_queries, num_keys) or (bs * heads, num_queries, num_keys), True = may not attend.
            key_padding_mask: (bs, num_keys) True = padding.
            **kwargs: Ignored; MMCV's layers pass the same arguments to every kind of attention.

        Returns:
            (bs, num_queries, C).
        """
        # Fill in defaults, and add positions.
        identity = query if identity is None else identity
        if key is None:
            key, key_pos = query, query_pos if key_pos is None else key_pos
        value = key if value is None else value
        query = query if query_pos is None else query + query_pos
        key = key if key_pos is None else key + key_pos
        # Attend; torch's module, as MMCV builds it, expects the batch in the second dimension.
        query, key, value = (t.transpose(0, 1) for t in (query, key, value))
        attended, _ = self.attn(
            query, key, value, need_weights=False, attn_mask=attn_mask, key_padding_mask=key_padding_mask
        )
        return identity + self.dropout_layer(self.proj_drop(attended.transpose(0, 1)))
